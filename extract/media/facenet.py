"""CenterFace's network on a GPU, for all decoding threads and processes at once.

On a processor the network takes two thirds of the time that it takes to decode a clip and follow its faces. Here one
thread takes the frames of all clips that wait and computes them together; processes reach it through a local socket.
The graph comes from the same ONNX file as on the CPU, in float32; scores differ in the sixth digit.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emo.extract.media.detect import INPUT, onnx_file, padded_size
from emo.extract.run.trace import Trace
from emo.featstore.errors import ModelError

AHEAD = 3  # frames that a clip asks about before it waits: that many times `every` full frames are kept
MOST = 16  # frames that are computed together
CELLS = 256  # candidates of a frame that are looked at, strongest first; a face of 480 pixels lights up a dozen cells


class FaceNet(nn.Module):
    """The ONNX graph as torch operations: convolutions, sums, and what stands between them."""

    def __init__(self) -> None:
        super().__init__()
        import onnx
        from onnx import helper, numpy_helper

        graph = onnx.load_from_string(onnx_file()[0]).graph
        self.steps: list[tuple[str, list[str], str, dict[str, Any]]] = []
        for node in graph.node:
            if node.op_type not in ("Conv", "ConvTranspose", "BatchNormalization", "Relu", "Add", "Sigmoid"):
                raise ModelError(f"The CenterFace weights have a layer {node.op_type}, which emo does not know.")
            words = {each.name: helper.get_attribute_value(each) for each in node.attribute}
            self.steps.append((node.op_type, list(node.input), node.output[0], words))
        self.outputs = [each.name for each in graph.output]
        self.names = {each.name: f"w{i}" for i, each in enumerate(graph.initializer)}
        for each in graph.initializer:
            self.register_buffer(self.names[each.name], torch.from_numpy(numpy_helper.to_array(each).copy()))

    def forward(self, images: Tensor) -> Tensor:
        """Maps `(B, 15, h / 4, w / 4)` of images `(B, 3, h, w)` float32 from 0 to 255: heat, size, centre, points."""
        values = {INPUT: images}
        for kind, names, out, words in self.steps:
            x, *rest = (values[n] if n in values else getattr(self, self.names[n]) for n in names)
            if kind == "Conv":
                bias = rest[1] if len(rest) > 1 else None
                pads = words["pads"][:2]
                values[out] = F.conv2d(x, rest[0], bias, words["strides"], pads, words["dilations"], words["group"])
            elif kind == "ConvTranspose":
                values[out] = F.conv_transpose2d(x, rest[0], None, words["strides"])
            elif kind == "BatchNormalization":
                gain, bias, mean, var = rest
                values[out] = F.batch_norm(x, mean, var, gain, bias, eps=words["epsilon"])
            elif kind == "Add":
                values[out] = x + rest[0]
            else:
                values[out] = torch.relu(x) if kind == "Relu" else torch.sigmoid(x)
        return torch.cat([values[name] for name in self.outputs], dim=1)

    def candidates(self, pixels: Tensor) -> Tensor:
        """The hottest cells of frames `(B, h, w, 3)` uint8, `(B, CELLS, 17)`: see `detect._decode`."""
        maps = self(pixels.permute(0, 3, 1, 2).float())
        heat, cells = maps[:, 0].flatten(1).topk(min(CELLS, maps[0, 0].numel()))
        found = maps[:, 1:].flatten(2).gather(2, cells[:, None].expand(-1, maps.shape[1] - 1, -1)).transpose(1, 2)
        columns = maps.shape[3]
        places = torch.stack([cells // columns, cells % columns], dim=2).float()
        return torch.cat([places, found, heat[..., None]], dim=2)


class Replay:
    """`FaceNet.candidates` for `MOST` frames of one size on a GPU, recorded once: a run costs the host one launch.

    Args:
        model: On the GPU.
        size: Height and width.
        pool: Memory that all recordings share; they are never run at the same time.
    """

    def __init__(self, model: FaceNet, size: tuple[int, int], device: torch.device, pool: Any) -> None:
        self.pixels = torch.zeros((MOST, *size, 3), dtype=torch.uint8, device=device)
        stream = torch.cuda.current_stream(device)
        for _ in range(2):  # what is chosen at the first run must be chosen before
            model.candidates(self.pixels)
        stream.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self.found = model.candidates(self.pixels)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pinned frames `(B, h, w, 3)` uint8, at most `MOST`, to their candidates."""
        self.pixels[: len(pixels)].copy_(pixels, non_blocking=True)
        self.graph.replay()
        return self.found[: len(pixels)]


class DetectionServer:
    """Computes the network for whoever asks; a context manager, and itself a `detect.Network`.

    Args:
        device: Where.
        min_score: Cells below it are no candidates.
        trace: Timeline.
    """

    ahead = AHEAD

    def __init__(self, device: torch.device, min_score: float, trace: Trace | None = None) -> None:
        self.device, self.min_score, self._trace = device, min_score, trace or Trace()
        self._model = FaceNet().to(device).eval()
        self._replays: dict[tuple[int, int], Replay] = {}
        self._pool: Any = None
        self._closing = False
        self._asked: queue.Queue[tuple[np.ndarray, Future[np.ndarray]] | None] = queue.Queue()
        self._folder = tempfile.TemporaryDirectory(prefix="emo-")
        self._key = secrets.token_bytes(16)
        self._listener = Listener(str(Path(self._folder.name) / "faces"), "AF_UNIX", authkey=self._key)
        for name, work in (("faces", self._compute), ("faces door", self._accept)):
            threading.Thread(target=work, name=f"{name} {device}", daemon=True).start()

    def __enter__(self) -> DetectionServer:
        return self

    def __exit__(self, *error: object) -> None:
        self._asked.put(None)
        self._closing = True
        with contextlib.suppress(OSError, EOFError):  # who waits for guests does not notice that the door is closed
            Client(self._listener.address, "AF_UNIX", authkey=self._key).close()
        self._listener.close()
        self._folder.cleanup()

    def begin(self, small: np.ndarray) -> Callable[[], np.ndarray]:
        """See `detect.Network`; for threads of this process."""
        return self._ask(small).result

    def _ask(self, small: np.ndarray) -> Future[np.ndarray]:
        answer: Future[np.ndarray] = Future()
        self._asked.put((small, answer))
        return answer

    def remote(self) -> RemoteNetwork:
        """A network for other processes."""
        return RemoteNetwork(str(self._listener.address), self._key)

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except OSError:
                return  # closed
            except Exception:  # noqa: BLE001 - somebody else knocked
                continue
            if self._closing:
                connection.close()
                return
            threading.Thread(target=self._serve, args=(connection,), name="faces guest", daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        def tell(answer: Future[np.ndarray]) -> None:
            error = answer.exception()
            with contextlib.suppress(OSError):
                connection.send_bytes(b"-" + str(error).encode() if error else b"+" + answer.result().tobytes())

        with contextlib.suppress(EOFError, OSError), connection:
            while True:
                shape = np.frombuffer(connection.recv_bytes(), np.int64)
                small = np.frombuffer(connection.recv_bytes(), np.uint8).reshape(shape)
                self._ask(small).add_done_callback(tell)

    def _compute(self) -> None:
        with contextlib.ExitStack() as stack:
            if self.device.type == "cuda":
                stack.enter_context(torch.cuda.device(self.device))
                stack.enter_context(torch.cuda.stream(torch.cuda.Stream(self.device, priority=-1)))
                stack.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
            stack.enter_context(torch.inference_mode())
            waiting: list[tuple[np.ndarray, Future[np.ndarray]]] = []
            while True:
                while not waiting or (len(waiting) < MOST and not self._asked.empty()):
                    asked = self._asked.get()
                    if asked is None:
                        return
                    waiting.append(asked)
                size = padded_size(waiting[0][0])
                batch = [each for each in waiting if padded_size(each[0]) == size]
                waiting = [each for each in waiting if padded_size(each[0]) != size]
                with self._trace.span("faces", frames=len(batch)):
                    self._answer(batch, size)

    def _answer(self, batch: list[tuple[np.ndarray, Future[np.ndarray]]], size: tuple[int, int]) -> None:
        try:
            cuda = self.device.type == "cuda"
            if cuda and size not in self._replays:
                self._pool = self._pool or torch.cuda.graph_pool_handle()
                self._replays[size] = Replay(self._model, size, self.device, self._pool)
            pixels = torch.zeros((len(batch), *size, 3), dtype=torch.uint8, pin_memory=cuda)
            for row, (small, _) in zip(pixels.numpy(), batch, strict=True):
                row[: small.shape[0], : small.shape[1]] = small
            found = self._fetch(self._replays[size](pixels) if cuda else self._model.candidates(pixels))
        except Exception as error:  # noqa: BLE001 - told to those who asked
            for _, answer in batch:
                answer.set_exception(error)
            return
        for (_, answer), rows in zip(batch, found, strict=True):
            answer.set_result(rows[rows[:, -1] > self.min_score])

    def _fetch(self, found: Tensor) -> np.ndarray:
        if self.device.type != "cuda":
            return found.numpy()
        here = torch.empty(found.shape, dtype=found.dtype, pin_memory=True)
        here.copy_(found, non_blocking=True)
        event = torch.cuda.Event(blocking=True)  # a spinning thread would take a core
        event.record()
        event.synchronize()
        return here.numpy()


class RemoteNetwork:
    """The network of a `DetectionServer` in another process; can be pickled. Every thread has its own connection."""

    ahead = AHEAD

    def __init__(self, address: str, key: bytes) -> None:
        self._address, self._key = address, key
        self._local = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._address, self._key)

    def begin(self, small: np.ndarray) -> Callable[[], np.ndarray]:
        """See `detect.Network`. Answers come in the order in which was asked."""
        if not hasattr(self._local, "connection"):
            self._local.connection = Client(self._address, "AF_UNIX", authkey=self._key)
        connection: Connection = self._local.connection
        connection.send_bytes(np.array(small.shape, np.int64).tobytes())
        connection.send_bytes(np.ascontiguousarray(small).tobytes())

        def answer() -> np.ndarray:
            said = connection.recv_bytes()
            if said[:1] == b"-":
                raise RuntimeError(f"faces could not be looked for: {said[1:].decode()}")
            return np.frombuffer(said, np.float32, offset=1).reshape(-1, 17)

        return answer
