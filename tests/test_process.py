"""The installed command as a process: what it imports, its streams, a terminal, signals."""

import os
import re
import signal
import subprocess
import sys
import termios
import time
from functools import partial
from pathlib import Path

import pytest
from command import LIC, lic
from conftest import TINY
from PIL import Image
from test_cli import GOLDEN, SAMPLE, TINY_OPTIONS


def test_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "lic", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == lic("--version").stdout.decode()
    assert done.stdout.startswith("lic 0.")


def test_help_version_and_info_do_not_import_torch():
    script = "import sys; from lic import cli\ntry: cli.main()\nfinally: assert 'torch' not in sys.modules"
    for args in (["--help"], ["--version"], ["encode", "--help"], ["info", str(GOLDEN)], ["decode", str(SAMPLE), "x.png"], ["encode"]):
        done = subprocess.run([sys.executable, "-c", script, *args], capture_output=True, text=True, check=False)
        assert "AssertionError" not in done.stderr, args
    quick = "import lic, sys; assert not {'torch', 'numpy', 'PIL', 'constriction'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", quick], check=True)


def test_the_command_leaves_for_later_what_only_compilers_want():
    script = """
import sys
from lic import cli, startup
torch = startup.import_torch()
assert "torch._refs" not in sys.modules and startup.LATER not in sys.modules
assert cli._codec("cpu", 1, 10**6, weights_folder=sys.argv[1])().decode(open(sys.argv[2], "rb").read()).size == (127, 100)
assert "torch._refs" not in sys.modules
from torch import _meta_registrations
assert _meta_registrations.__file__ and "torch._refs" in sys.modules
assert torch.logdet(torch.ones(2, 3, 3, device="meta")).shape == (2,)
assert startup.import_torch() is torch and startup.LATER in sys.modules
"""
    subprocess.run([sys.executable, "-c", script, str(TINY), str(GOLDEN)], check=True)


def test_names_of_open_files_are_streams(tmp_path):
    if not Path("/dev/fd").exists():
        pytest.skip("this system has none")
    run = partial(subprocess.run, capture_output=True, check=True, cwd=tmp_path)
    decode = f"{LIC} decode --weights {TINY} {GOLDEN}"
    assert run(["bash", "-c", f"{decode} /dev/stdout --format png | head -c 4"]).stdout == b"\x89PNG"
    assert run(["bash", "-c", f"{decode} --format png >(head -c 4); wait"]).stdout == b"\x89PNG"
    run(["bash", "-c", f"(echo first; {decode} /dev/stdout --format ppm; echo last) > out"])
    assert (tmp_path / "out").read_bytes().startswith(b"first\nP6")
    assert (tmp_path / "out").read_bytes().endswith(b"last\n")
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_closed_streams_and_no_memory(tmp_path):
    def run(command):
        return subprocess.run(["bash", "-c", command], capture_output=True, check=False)

    assert run(f"{LIC} info {GOLDEN} >&-").returncode == 0
    assert run(f"{LIC} verify --quiet --weights {TINY} {GOLDEN} >&-").returncode == 0
    for command in (f"{LIC} info - <&-", f"{LIC} decode {GOLDEN} - >&-"):
        assert b"closed" in run(command).stderr
    big = tmp_path / "big.png"
    Image.new("RGB", (7000, 9000)).save(big)
    done = run(f"ulimit -v 4000000; {LIC} encode {' '.join(TINY_OPTIONS)} -e 0 {big} {tmp_path / 'x.lic'}")
    assert done.stderr == b"lic: out of memory\n"
    assert done.returncode == 1


def test_a_long_search_shows_how_far_it_is_on_a_terminal_only(tmp_path):
    Image.open(SAMPLE).resize((1100, 64)).save(tmp_path / "wide.png")  # two blocks
    encode = "encode", *TINY_OPTIONS, "-e", "1", tmp_path / "wide.png"
    assert b"block" not in lic(*encode, tmp_path / "x.lic").stderr
    shown = {}
    for options in ((), ("--quiet",)):
        ours, theirs = os.openpty()
        termios.tcsetwinsize(theirs, (24, 80))
        with os.fdopen(ours, "rb", buffering=0) as terminal:
            subprocess.run([LIC, *encode, tmp_path / "y.lic", *options], stderr=theirs, check=True)
            os.write(theirs, b"\n.")
            shown[options] = b""
            while not shown[options].endswith(b"."):
                shown[options] += terminal.read(4096)
            os.close(theirs)
    assert re.search(rb"[1-8]/8 ", shown[()])  # each is weighed four times at effort 1
    assert b"block" not in shown["--quiet",]


def test_full_device_and_closed_pipe():
    if Path("/dev/full").exists():
        done = subprocess.run(f"{LIC} decode --weights {TINY} {GOLDEN} - > /dev/full", shell=True, capture_output=True, check=False)
        assert done.returncode == 1
        assert b"Traceback" not in done.stderr
        assert b"No space left" in done.stderr
    done = subprocess.run(["bash", "-c", f"{LIC} decode --weights {TINY} {GOLDEN} - | true"], capture_output=True, check=False)
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(number, code, tmp_path):
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs, and what they start, ignore it
    command = [LIC, "encode", "-", str(tmp_path / "x.lic")]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed)
    time.sleep(1.5)  # it waits for its input
    child.send_signal(number)
    _, error = child.communicate(timeout=60)
    assert child.returncode == code
    assert b"Traceback" not in error
    assert list(tmp_path.iterdir()) == []
