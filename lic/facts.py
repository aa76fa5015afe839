"""What a .lic file says of itself, without being decoded."""

from . import container, locate
from .errors import MissingWeights


def facts(data: bytes) -> dict[str, str | int | float | bool | None]:
    """The bytes of a .lic file -> facts by name; a name of weights that are not installed is None. LicError if it is none."""
    header, frames = container.unpack(data)
    pixels = header.width * header.height * len(frames)
    found = {
        "width": header.width, "height": header.height, "bytes": len(data),
        "bits_per_pixel": round(8 * len(data) / pixels, 4), "lossless": not header.weights, "quality": round(header.quality, 2),
        "payload_bytes": sum(len(frame.payload) for frame in frames),
        "icc_profile_bytes": len(header.profile or b""), "alpha_bytes": sum(len(frame.alpha or b"") for frame in frames),
        "exif_bytes": len(header.exif or b""), "xmp_bytes": len(header.xmp or b""),
        "format_version": container.VERSION, "frames": len(frames),
    }  # fmt: skip
    if header.weights:
        found |= {"weights": header.weights.hex(), "weights_name": _name_of(header.weights)}
    if header.predicted_by:
        found |= {
            "gop_structure": "".join("IP"[frame.predicted] for frame in frames),
            "predicted_by": header.predicted_by.hex(), "predicted_by_name": _name_of(header.predicted_by),
        }  # fmt: skip
    if header.plays is not None:
        found |= {"milliseconds": sum(frame.duration for frame in frames), "plays": header.plays}
    return found


def _name_of(fingerprint: bytes) -> str | None:
    try:
        return locate.name_of(locate.by_fingerprint(fingerprint.hex()))
    except MissingWeights:
        return None
