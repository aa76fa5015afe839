"""`make demo`: the installed command on the sample image, as anyone would call it.  demo.py LIC IMAGE FOLDER"""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image


def timed(*command) -> float:
    """Run a command as a process of its own; wall-clock seconds."""
    start = time.perf_counter()
    subprocess.run([str(part) for part in command], check=True)
    return time.perf_counter() - start


def main(lic: str, source: str, folder: str) -> None:
    """Encode `source` at three qualities into `folder`, decode, and print a table."""
    out = Path(folder)
    out.mkdir(exist_ok=True)
    original = np.asarray(Image.open(source).convert("RGB"), dtype=np.float64)
    pixels = original.shape[0] * original.shape[1]
    print(f"{source}: {original.shape[1]}x{original.shape[0]}, {Path(source).stat().st_size} bytes as PNG\n")
    print("quality    bytes  bits/pixel   PSNR dB  encode s  decode s   (whole process, start-up included)")
    for quality in (20, 50, 80):
        coded, decoded = out / f"sample-q{quality}.lic", out / f"sample-q{quality}.png"
        encode = timed(lic, "encode", "--quiet", "-q", quality, source, coded)
        decode = timed(lic, "decode", coded, decoded)
        mse = np.mean((np.asarray(Image.open(decoded), dtype=np.float64) - original) ** 2)
        size = coded.stat().st_size
        print(f"{quality:7} {size:8} {8 * size / pixels:11.3f} {10 * np.log10(255**2 / mse):9.2f} {encode:9.1f} {decode:9.1f}")
    print(f"\nlook at the decoded pictures in {out}/")


if __name__ == "__main__":
    main(*sys.argv[1:])
