"""A stand-in for `.venv/bin/python`: the same interpreter, forked from a process that has imported the libraries.

Typing forty commands takes forty imports of torch and TRL, five seconds of CPU each. Here one process imports them, and
each command is a fork of it in the caller's folder, environment and terminal. The package itself is imported anew.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
from contextlib import contextmanager
from pathlib import Path

CLIENT = """\
#!{python} -S
import json, os, socket, sys
line = socket.socket(socket.AF_UNIX)
line.connect({address!r})
what = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(line, [len(what).to_bytes(8, "big")], [0, 1, 2])
line.sendall(what)
sys.exit(int(line.recv(16)))
"""


@contextmanager
def warm(place: Path, env: dict[str, str]):
    """Put the stand-in at `place` for as long as the context lasts; libraries see `env` when they are imported."""
    home = tempfile.TemporaryDirectory()  # a socket's address has room for a hundred characters
    address = f"{home.name}/warm"
    place.write_text(textwrap.dedent(CLIENT).format(python=sys.executable, address=address))
    place.chmod(0o755)
    server = subprocess.Popen(
        [sys.executable, __file__, address], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        printed = iter(server.stdout.readline, "")  # imports may print, too
        assert "ready\n" in printed, server.stderr.read()
        yield
    finally:
        server.kill()
        server.wait()
        home.cleanup()


def _serve(address: str) -> None:
    import transformers.trainer
    import trl

    for name in ("AutoModelForSequenceClassification", "AutoTokenizer", "LlamaForCausalLM", "Qwen2ForCausalLM"):
        getattr(transformers, name)
    for name in ("SFTTrainer", "RewardTrainer", "DPOTrainer", "GRPOTrainer"):
        getattr(trl, name)
    door = socket.socket(socket.AF_UNIX)
    door.bind(address)
    door.listen()
    print("ready", flush=True)
    while True:
        line, _ = door.accept()
        size, descriptors, _, _ = socket.recv_fds(line, 8, 3)
        what = b""
        while len(what) < int.from_bytes(size, "big"):
            what += line.recv(65536)
        child = os.fork()
        if not child:
            door.close()
            _become(descriptors, *json.loads(what))
        for descriptor in descriptors:
            os.close(descriptor)
        threading.Thread(target=_answer, args=(line, child)).start()


def _answer(line: socket.socket, child: int) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    line.sendall(str(code if code >= 0 else 128 - code).encode())
    line.close()


def _become(descriptors: list[int], argv: list[str], folder: str, env: dict[str, str]) -> None:
    """Run `python -m <module> …` as if this process had been started for it; never returns."""
    import runpy

    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    assert argv[0] == "-m", argv
    sys.path[0] = folder
    sys.argv = argv[1:]
    code = 0
    try:
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve(sys.argv[1])
