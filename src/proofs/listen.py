# A job that listens, and says who came. It connects to itself first, so that silence from others means something.
import os
import socket

try:
    own = socket.gethostbyname(socket.gethostname())
except OSError:
    own = ""
if own.startswith("127.") or not own:
    own = "none"
server = socket.create_server(("0.0.0.0", 0))
port = server.getsockname()[1]
try:
    socket.create_connection(("127.0.0.1" if own == "none" else own, port), 2).close()
    answers = "itself"
except OSError as error:
    answers = "nobody: %s" % error
print("listening", own, port, answers, flush=True)
server.settimeout(float(os.environ["WAIT"]))
try:
    while True:
        connection, peer = server.accept()
        connection.close()
        print("came", peer[0], flush=True)
except OSError:
    pass
