"""`import lic.pillow`, and Pillow opens and saves .lic files like any other format.

Image.open("photo.lic")                                   header only; torch is loaded when pixels are asked for
image.save("photo.lic", quality=75, effort=2, tune="psnr") icc_profile=…, else that of the image; exif=…, xmp=…, else none;
                                                           convert=True for 16-bit grey and CMYK images
images[0].save("film.lic", save_all=True, append_images=images[1:], duration=40, loop=0)     milliseconds, or a list of them
"""

from functools import cache

from PIL import Image, ImageFile

from . import container
from .container import METADATA
from .defaults import EFFORT, QUALITY, TUNE
from .errors import LicError

FORMAT = "LIC"


@cache
def _codec(*keep: str, **options):
    from .codec import Codec

    return Codec(keep=keep, **options)


class LicImageFile(ImageFile.ImageFile):
    """A picture, or a sequence of frames to seek in."""

    format, format_description = FORMAT, "lic learned image codec"

    def _open(self) -> None:
        self._data = self.fp.read()
        try:
            header, self._frames = container.unpack(self._data)
        except LicError as error:
            raise SyntaxError(str(error)) from error  # what Pillow expects of files that are not for this format
        self._size, self._mode = (header.width, header.height), "RGBA" if any(frame.alpha for frame in self._frames) else "RGB"
        held = {"icc_profile": header.profile, "exif": header.exif, "xmp": header.xmp}
        self.info |= {"quality": header.quality} | {name: data for name, data in held.items() if data}
        self.n_frames, self.is_animated, self._at = len(self._frames), len(self._frames) > 1, 0
        if header.plays is not None:
            self.info |= {"duration": self._frames[0].duration, "loop": header.plays}

    def seek(self, frame: int) -> None:
        """To a frame, counted from 0; EOFError if there is none."""
        if not 0 <= frame < self.n_frames:
            raise EOFError(f"no frame {frame}: the file has {self.n_frames}")
        if frame != self._at:
            self._at, self._im = frame, None
            if "loop" in self.info:
                self.info["duration"] = self._frames[frame].duration

    def tell(self) -> int:
        """The number of the current frame."""
        return self._at

    def load(self):
        """Decode the current frame."""
        if self._im is None:
            try:
                self.im = _codec().decode(self._data, self._at + 1).convert(self.mode).im
            except LicError as error:
                raise OSError(str(error)) from error
            if self.fp and self._exclusive_fp:  # opened by name: all of it has been read
                self.fp.close()
                self.fp = None
        return Image.Image.load(self)


def _save(image: Image.Image, file, name, every: bool = False) -> None:
    options = image.encoderinfo
    quality, effort = options.get("quality", QUALITY), options.get("effort", EFFORT)
    pictures = [image, *(options.get("append_images", ()) if every else ())]
    given = {name: options[name] for name in ("icc_profile", "duration", "loop", *METADATA) if name in options}
    if isinstance(given.get("exif"), Image.Exif):
        given["exif"] = given["exif"].tobytes()
    if given:
        pictures = [picture.copy() for picture in pictures]
        durations = given.pop("duration", None)
        durations = durations if isinstance(durations, list | tuple) else [durations] * len(pictures)
        if len(durations) != len(pictures):
            raise ValueError(f"{len(durations)} durations for {len(pictures)} frames")
        for picture, duration in zip(pictures, durations, strict=True):
            picture.info |= given | ({} if duration is None else {"duration": duration})
    try:
        of_codec = {"tune": options.get("tune", TUNE), "convert": options.get("convert", False)}
        codec = _codec(*(name for name in METADATA if given.get(name)), **of_codec)
        coded = codec.encode_sequence(pictures, quality, effort) if len(pictures) > 1 else codec.encode(pictures[0], quality, effort)
    except LicError as error:
        raise ValueError(str(error)) from error
    file.write(coded)


Image.register_open(FORMAT, LicImageFile, lambda prefix: prefix.startswith(container.MAGIC))
Image.register_save(FORMAT, _save)
Image.register_save_all(FORMAT, lambda image, file, name: _save(image, file, name, every=True))
Image.register_extension(FORMAT, ".lic")
Image.register_mime(FORMAT, "image/x-lic")
