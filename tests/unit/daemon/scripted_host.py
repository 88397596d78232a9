"""A process that speaks the host protocol and does what it is told by the messages that it signs, one or many.

    scripted_host.py SOCKET GREETING

`echo` is answered with itself, `die` ends the process, `hang` is never answered, `pause N` is answered after N
milliseconds, `refuse` with an error, `noise` with what is no frame, `wrong` with a reply of another type, `twice`
two times, `cut` with half a frame and the end. The greeting is `good`, `silent`, `refused`, `noise` or `closed`.
"""

import os
import secrets
import socket
import sys
import threading
import time

from hsmbridge.core import calls
from hsmbridge.core.errors import ProviderError, Status
from hsmbridge.providers.host.messages import ATTACH_OPCODE, AttachReply
from hsmbridge.wire.codec import CALL_OPCODE, decode_call, encode_call_reply, encode_error, encode_message
from hsmbridge.wire.frames import Frame, FrameReader

NOISE = b"\xff" * 64
FOREVER = 600


def answer(connection: socket.socket, frame: Frame) -> None:
    call = decode_call(frame.body)
    match call:
        case calls.SignCall(message=message):
            messages, reply = [message], encode_call_reply(frame.request_id, message)
        case calls.SignManyCall():
            messages = list(call.messages)
            reply = encode_call_reply(frame.request_id, messages)
        case _:
            messages, reply = [], encode_call_reply(frame.request_id, b"echo")
    for message in messages:
        word, _, number = message.decode(errors="replace").partition(" ")
        match word:
            case "die":
                os._exit(1)
            case "hang":
                time.sleep(FOREVER)
            case "pause":
                time.sleep(int(number) / 1000)
            case "refuse":
                refusal = ProviderError(Status.TOKEN_NOT_PRESENT, "No token.")
                reply = encode_error(frame.request_id, CALL_OPCODE, refusal)
            case "noise":
                reply = NOISE
            case "wrong":
                reply = encode_call_reply(frame.request_id, 7)
            case "twice":
                connection.sendall(reply)
            case "cut":
                connection.sendall(reply[:-2])
                connection.shutdown(socket.SHUT_RDWR)
                return
            case _:
                continue
    connection.sendall(reply)


def greet(connection: socket.socket, greeting: str) -> None:
    match greeting:
        case "silent":
            time.sleep(FOREVER)
        case "refused":
            refusal = ProviderError(Status.PROVIDER_UNAVAILABLE, "Not for you.")
            connection.sendall(encode_error(0, ATTACH_OPCODE, refusal))
        case "noise":
            connection.sendall(NOISE)
        case "closed":
            connection.shutdown(socket.SHUT_RDWR)
        case _:
            reply = AttachReply("scripted", secrets.token_bytes(16), os.getpid())
            connection.sendall(encode_message(ATTACH_OPCODE, 0, reply, reply=True))


def serve(connection: socket.socket, greeting: str) -> None:
    reader = FrameReader(1 << 20)
    greeted = False
    while data := connection.recv(1 << 16):
        for frame in reader.feed(data):
            if greeted:
                answer(connection, frame)
            else:
                greet(connection, greeting)
                greeted = True


def main() -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[1])
    listener.listen()
    print("listening", flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection, sys.argv[2]), daemon=True).start()


if __name__ == "__main__":
    main()
