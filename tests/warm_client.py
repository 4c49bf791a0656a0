"""Run the command line in a process of the server whose socket is the first argument.

Standard streams, directory, environment and exit code are those of this process. Only built-in
modules are imported, since starting fast is all that this is for.
"""

import _socket
import array
import os
import signal
import sys


def main() -> int:
    """Ask for a process, wait for its end, and end likewise."""
    environment = [f"{name}={value}" for name, value in os.environ.items()]
    request = [os.getcwd(), str(len(environment)), *environment, "curate", *sys.argv[2:]]
    server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    server.connect(sys.argv[1])
    streams = array.array("i", [0, 1, 2])
    text = os.fsencode("\0".join(request))
    sent = server.sendmsg([text], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)])
    server.sendall(text[sent:])
    server.shutdown(_socket.SHUT_WR)
    code = int(server.recv(16) or b"70")
    if code < 0:
        if -code != signal.SIGKILL:  # which has no handler to reset
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main())
