"""The installed command for tests, in processes of its own.

To import torch takes longer than what most tests ask for, so a server has it imported and forks. What depends on how a
process starts, on its environment or its input, starts anew.
"""

import atexit
import json
import os
import socket
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path

LIC = Path(sys.executable).with_name("lic")


def lic(*args, stdin: bytes | None = None, code: int = 0, **environment) -> subprocess.CompletedProcess:
    """Run the command; assert its exit code, and that a failure is one line and no traceback."""
    args = [str(arg) for arg in args]
    if stdin is None and not environment:
        done = _fork(args)
    else:
        everything = {**os.environ, **environment}
        done = subprocess.run([str(LIC), *args], input=stdin, capture_output=True, timeout=120, check=False, env=everything)
    error = done.stderr.decode()
    assert done.returncode == code, error
    assert "Traceback" not in error
    if code == 1:
        assert error.count("\n") == 1
        assert error.startswith("lic: ")
    return done


def _fork(args: list[str]) -> subprocess.CompletedProcess:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, open(os.devnull) as nothing:
        socket.send_fds(_server(), [json.dumps([os.getcwd(), args]).encode()], [file.fileno() for file in (nothing, out, err)])
        code = int(_server().recv(16))
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(args, code, out.read(), err.read())


@cache
def _server() -> socket.socket:
    ours, theirs = socket.socketpair()
    process = subprocess.Popen([sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()])
    theirs.close()
    ours.settimeout(120)

    @atexit.register
    def stop():
        ours.close()
        process.wait()

    return ours


def _serve(channel: socket.socket) -> None:
    from lic import cli, codec  # noqa: F401

    while True:
        request, streams, *_ = socket.recv_fds(channel, 1 << 16, 3)
        if not request:
            return
        if (child := os.fork()) == 0:
            try:
                folder, args = json.loads(request)
                os.chdir(folder)
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                sys.argv = [str(LIC), *args]
                cli.main()  # never returns
            finally:
                traceback.print_exc()
                os._exit(1)
        for stream in streams:
            os.close(stream)
        channel.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
