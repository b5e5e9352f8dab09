"""Shared memory: what a client puts there is what is scored, and nothing that it does to it hurts the server."""

import contextlib
import fcntl
import json
import os
import resource
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cutpoint.errors import BadRequest, Overloaded
from cutpoint.oip import inference_pb2 as oip
from cutpoint.server.protocol.delivery import deliver, deliveries_of, inputs_from, shared_bytes
from cutpoint.server.protocol.shared_memory import SharedMemory
from processes import ENVIRONMENT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Stands in for /dev/shm."""
    shm = tmp_path / "shm"
    shm.mkdir()
    return shm


@pytest.fixture
def memory(folder: Path) -> Iterator[SharedMemory]:
    """No regions yet, and none left behind."""
    memory = SharedMemory(folder)
    yield memory
    memory.unregister()
    assert descriptors(folder) == 0


def descriptors(folder: Path) -> int:
    """How many of this process are of files in this folder."""
    found = 0
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            found += str(each.readlink()).startswith(f"{folder}/")
    return found


def an_object(folder: Path, name: str, content: bytes) -> str:
    (folder / name).write_bytes(content)
    return f"/{name}"


def placed(tensor: object, region: str, byte_size: int, offset: int = 0) -> None:
    parameters = tensor.parameters  # type: ignore[attr-defined]
    parameters["shared_memory_region"].string_param = region
    parameters["shared_memory_byte_size"].int64_param = byte_size
    if offset:
        parameters["shared_memory_offset"].int64_param = offset


def test_bytes_are_where_they_are_said_to_be(folder: Path, memory: SharedMemory) -> None:
    key = an_object(folder, "a", bytes(range(200)))
    memory.register("all", key, 0, 200)
    memory.register("part", "a", 17, 100)  # of any alignment, and as glibc takes it without the slash
    assert bytes(memory.read("all", 0, 200)) == bytes(range(200))
    assert bytes(memory.read("part", 3, 4)) == bytes([20, 21, 22, 23])
    assert bytes(memory.read("part", 100, 0)) == b""
    memory.write("part", 98, b"\xff\xfe")
    assert (folder / "a").read_bytes()[114:118] == bytes([114, 0xFF, 0xFE, 117])
    assert memory.read("all", 0, 1).readonly


def test_a_read_is_a_copy(folder: Path, memory: SharedMemory) -> None:
    memory.register("r", an_object(folder, "a", b"before"), 0, 6)
    read = memory.read("r", 0, 6)
    (folder / "a").write_bytes(b"after!")
    assert bytes(read) == b"before"
    assert bytes(memory.read("r", 0, 6)) == b"after!"


def test_status_says_what_was_registered(folder: Path, memory: SharedMemory) -> None:
    memory.register("one", an_object(folder, "a", bytes(64)), 8, 16)
    memory.register("two", "/a", 0, 64)
    every = memory.status().regions
    assert {name: (each.name, each.key, each.offset, each.byte_size) for name, each in every.items()} == {
        "one": ("one", "/a", 8, 16),
        "two": ("two", "/a", 0, 64),
    }
    assert list(memory.status("two").regions) == ["two"]
    memory.unregister("one")
    memory.unregister("one")  # forgotten already
    assert list(memory.status().regions) == ["two"]
    with pytest.raises(BadRequest, match="shared memory region is 'one', which is not registered"):
        memory.status("one")
    memory.unregister()
    assert not memory.status().regions


@pytest.mark.parametrize(
    ("name", "key", "offset", "byte_size", "text"),
    [
        ("", "/a", 0, 8, "name of the shared memory region is ''; expected 1 to 255 printable"),
        ("n" * 256, "/a", 0, 8, "name of the shared memory region"),
        ("a\nb", "/a", 0, 8, "name of the shared memory region"),
        ("taken", "/a", 0, 8, "name of the shared memory region is 'taken'; expected one that is not registered yet"),
        ("r", "", 0, 8, "key of shared memory region 'r' is ''"),
        ("r", "/", 0, 8, "key of shared memory region 'r' is '/'"),
        ("r", "//a", 0, 8, "key of shared memory region 'r' is '//a'"),
        ("r", "/..", 0, 8, "key of shared memory region 'r' is '/..'"),
        ("r", ".", 0, 8, "without another '/'"),
        ("r", "/../etc/passwd", 0, 8, "without another '/'"),
        ("r", "/sub/a", 0, 8, "without another '/'"),
        ("r", "/a\0b", 0, 8, "without another '/'"),
        ("r", "/" + "é" * 128, 0, 8, "without another '/'"),
        ("r", "/sem.a", 0, 8, "none that begins with 'sem.'"),
        ("r", "/none", 0, 8, r"'/none' \(No such file or directory\); expected a shared memory object"),
        ("r", "/link", 0, 8, "Too many levels of symbolic links"),
        ("r", "/sub", 0, 8, "Is a directory"),
        ("r", "/pipe", 0, 8, r"'/pipe' \(no plain file\); expected a shared memory object"),
        ("r", "/a", 0, 0, "byte_size of shared memory region 'r' is 0; expected 1 or more bytes"),
        ("r", "/a", -1, 8, "offset of shared memory region 'r' is -1"),
        ("r", "/a", 0, 9, r"offset \+ byte_size of shared memory region 'r' is 0 \+ 9; expected 8 bytes from there at most"),
        ("r", "/a", 8, 1, r"is 8 \+ 1; expected 0 bytes from there"),
        ("r", "/a", 1 << 63, 1 << 63, "expected 0 bytes from there"),
    ],
)
def test_what_cannot_be_registered_is_named(
    folder: Path, memory: SharedMemory, name: str, key: str, offset: int, byte_size: int, text: str
) -> None:
    an_object(folder, "a", bytes(8))
    an_object(folder, "sem.a", bytes(8))
    (folder / "sub").mkdir()
    an_object(folder / "sub", "a", bytes(8))
    (folder / "link").symlink_to(folder / "a")
    os.mkfifo(folder / "pipe")
    memory.register("taken", "/a", 0, 8)
    before = descriptors(folder)
    with pytest.raises(BadRequest, match=text):
        memory.register(name, key, offset, byte_size)
    assert descriptors(folder) == before
    assert list(memory.status().regions) == ["taken"]


def test_regions_are_bounded_in_number(folder: Path) -> None:
    memory = SharedMemory(folder, max_regions=2)
    key = an_object(folder, "a", bytes(8))
    memory.register("one", key, 0, 8)
    memory.register("two", key, 0, 8)
    with pytest.raises(Overloaded, match="shared memory regions is 2; expected below 2"):
        memory.register("three", key, 0, 8)
    memory.unregister("one")
    memory.register("three", key, 0, 8)
    memory.unregister()


def test_a_region_of_any_size_does_not_take_the_servers_memory(folder: Path) -> None:
    memory = SharedMemory(folder, max_read_bytes=1000)
    with (folder / "sparse").open("wb") as file:
        file.truncate(1 << 40)  # a terabyte that nobody has paid for
    memory.register("r", "/sparse", 0, 1 << 40)
    with pytest.raises(BadRequest, match="is 1099511627776 bytes; expected at most 1000"):
        memory.read("r", 0, 1 << 40)
    assert bytes(memory.read("r", (1 << 40) - 1000, 1000)) == bytes(1000)
    memory.unregister()


@pytest.mark.parametrize(("offset", "byte_size"), [(0, 9), (8, 1), (9, 0), (-1, 2), (0, -1), (1 << 62, 1 << 62)])
def test_nothing_outside_a_region_is_read_or_written(folder: Path, memory: SharedMemory, offset: int, byte_size: int) -> None:
    memory.register("r", an_object(folder, "a", bytes(24)), 8, 8)
    with pytest.raises(BadRequest, match=r"offset \+ shared_memory_byte_size in region 'r' is .*; expected at most its 8"):
        memory.read("r", offset, byte_size)
    if 0 <= byte_size < 100:
        with pytest.raises(BadRequest, match="in region 'r'"):
            memory.write("r", offset, b"x" * byte_size)
    with pytest.raises(BadRequest, match="shared memory region is 'none', which is not registered"):
        memory.read("none", 0, 1)
    assert (folder / "a").read_bytes() == bytes(24)


def test_a_region_made_shorter_is_an_error_and_not_the_end(folder: Path, memory: SharedMemory) -> None:
    """Mapped, the same would be SIGBUS."""
    size = 1 << 20
    memory.register("r", an_object(folder, "a", bytes(size)), 0, size)
    slot = memory.slot("r", 0, size)
    os.truncate(folder / "a", 4096)
    wanted = "shared memory region 'r' is 4096 bytes long now; expected the 1048576 registered"
    for attempt in (lambda: memory.read("r", 0, size), lambda: memory.write("r", 0, b"x"), slot.read):
        with pytest.raises(BadRequest, match=wanted):
            attempt()
    assert (folder / "a").stat().st_size == 4096, "writing would have made it longer again"
    assert bytes(memory.read("r", 0, 4096)) == bytes(4096)
    os.truncate(folder / "a", 0)
    with pytest.raises(BadRequest, match="is 0 bytes long now"):
        memory.read("r", 0, 1)


def test_a_region_removed_by_its_owner_is_still_the_same(folder: Path, memory: SharedMemory) -> None:
    memory.register("r", an_object(folder, "a", b"mine"), 0, 4)
    (folder / "a").unlink()
    an_object(folder, "a", b"else")
    assert bytes(memory.read("r", 0, 4)) == b"mine"
    memory.write("r", 0, b"x")
    assert (folder / "a").read_bytes() == b"else"


def test_a_request_under_way_keeps_its_region(folder: Path, memory: SharedMemory) -> None:
    before = descriptors(folder)
    memory.register("r", an_object(folder, "a", b"data"), 0, 4)
    slot = memory.slot("r", 1, 2)
    memory.unregister("r")
    with pytest.raises(BadRequest, match="not registered"):
        memory.read("r", 0, 4)
    assert bytes(slot.read()) == b"at"
    slot.write(b"XY")
    assert (folder / "a").read_bytes() == b"dXYa"
    assert descriptors(folder) == before + 1
    del slot
    assert descriptors(folder) == before


def test_no_room_to_write_is_a_bad_request(memory: SharedMemory, folder: Path) -> None:
    memory.register("r", an_object(folder, "a", bytes(8192)), 0, 8192)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(BadRequest, match=r"region 'r' is not writable \(File too large\); expected room to write into"):
            memory.write("r", 5000, b"data")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_threads_see_whole_regions_or_none(folder: Path, memory: SharedMemory) -> None:
    size = 4096
    keys = [an_object(folder, f"k{i}", bytes([i]) * size) for i in range(4)]
    wrong: list[object] = []
    start = threading.Barrier(4)

    def work(mine: int) -> None:
        start.wait()
        for turn in range(400):
            other = f"r{(mine + turn) % 4}"
            try:
                if turn % 3 == 0:
                    memory.register(f"r{mine}", keys[mine], 0, size)
                elif turn % 7 == 0:
                    memory.unregister(f"r{mine}")
                if bytes(memory.read(other, 0, size)) != bytes([int(other[1])]) * size:
                    wrong.append(other)
            except BadRequest:
                pass
            except BaseException as error:
                wrong.append(error)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_inputs_come_from_regions_and_the_message(folder: Path, memory: SharedMemory) -> None:
    x, y, z = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(2, dtype=np.int64), np.array([b"a", b"bcd"], object)
    text = b"\x01\x00\x00\x00a\x03\x00\x00\x00bcd"
    memory.register("r", an_object(folder, "a", bytes(10) + x.tobytes() + text), 0, 10 + 24 + len(text))
    request = oip.ModelInferRequest(model_name="m", raw_input_contents=[y.tobytes()])
    placed(request.inputs.add(name="x", datatype="FP32", shape=[2, 3]), "r", 24, 10)
    request.inputs.add(name="y", datatype="INT64", shape=[2])
    placed(request.inputs.add(name="z", datatype="BYTES", shape=[2]), "r", len(text), 34)
    found = inputs_from(oip.ModelInferRequest.FromString(request.SerializeToString()), memory)
    assert list(found) == ["x", "y", "z"]
    for name, wanted in (("x", x), ("y", y), ("z", z)):
        assert (found[name].dtype, found[name].tolist()) == (wanted.dtype, wanted.tolist())
    assert not found["x"].flags.writeable
    assert shared_bytes(request) == 24 + len(text)
    with pytest.raises(BadRequest, match="region of input 'x' for model 'm' is 'r'; expected none: shared memory is off"):
        inputs_from(request, None)


def test_outputs_go_where_they_are_wanted(folder: Path, memory: SharedMemory) -> None:
    memory.register("r", an_object(folder, "a", bytes(100)), 0, 100)
    request = oip.ModelInferRequest(model_name="m")
    request.outputs.add(name="plain")
    placed(request.outputs.add(name="shared"), "r", 12, 50)
    request.outputs.add(name="best").parameters["classification"].int64_param = 1
    placed(request.outputs.add(name="text"), "r", 20)
    deliveries = deliveries_of(request, memory)
    assert set(deliveries) == {"shared", "best", "text"}
    outputs = {
        "plain": np.array([1.5]),
        "shared": np.array([[1, 2, 3]], np.int32),
        "best": np.array([[0.25, 0.5]], np.float32),
        "text": np.array([b"ab"], object),
    }
    memory.unregister()  # the request under way keeps it
    arrays, raws = deliver(outputs, deliveries, ["no", "yes"])
    assert raws == [np.array([1.5]).tobytes(), b"", b"\x0e\x00\x00\x000.500000:1:yes", b""]
    assert [(name, array.shape, array.dtype) for name, array in arrays.items()] == [
        ("plain", (1,), np.float64), ("shared", (1, 3), np.int32), ("best", (1, 1), np.object_), ("text", (1,), np.object_),
    ]  # fmt: skip
    content = (folder / "a").read_bytes()
    assert content[50:62] == np.array([1, 2, 3], "<i4").tobytes()
    assert content[:50] == b"\x02\x00\x00\x00ab" + bytes(44)
    assert content[62:] == bytes(38)


def test_arrays_of_any_layout_are_written_as_raw_contents_are(folder: Path, memory: SharedMemory) -> None:
    memory.register("r", an_object(folder, "a", bytes(100)), 0, 100)
    request = oip.ModelInferRequest(model_name="m")
    placed(request.outputs.add(name="o"), "r", 100)
    table = np.arange(6, dtype=np.int32).reshape(2, 3)
    for array in (table.T, table.astype(">i4"), table > 2, np.zeros((0, 3), np.float16), np.array(7, np.uint8)):
        deliver({"o": array}, deliveries_of(request, memory))
        wanted = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        assert (folder / "a").read_bytes()[: len(wanted)] == wanted


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"classification": 0}, "classification of output 'o' for model 'm' is int64_param: 0; expected 1 or more"),
        ({"classification": -3}, "classification of output 'o'"),
        ({"classification": "3"}, "classification of output 'o'"),
        ({"classification": True}, "classification of output 'o'"),
        ({"classification": None}, "classification of output 'o' for model 'm' is empty"),
        ({"shared_memory_region": "r", "shared_memory_byte_size": 4, "classification": 1}, "expected one of the two"),
        ({"shared_memory_region": "r"}, "shared_memory_byte_size of output 'o' for model 'm' is not given; expected the bytes"),
        ({"shared_memory_region": 3}, "shared_memory_region of output 'o' for model 'm' is int64_param 3; expected a string"),
        ({"shared_memory_region": None}, "shared_memory_region of output 'o' for model 'm' is empty"),
        (
            {"shared_memory_region": "r", "shared_memory_byte_size": -4},
            "byte_size of output .* is int64_param -4",
        ),
        ({"shared_memory_region": "r", "shared_memory_byte_size": "4"}, "is string_param '4'; expected the bytes"),
        ({"shared_memory_region": "r", "shared_memory_byte_size": 4, "shared_memory_offset": -1}, "shared_memory_offset of"),
        ({"shared_memory_region": "r", "shared_memory_byte_size": 4, "shared_memory_offset": 1.5}, "shared_memory_offset of"),
        ({"shared_memory_region": "r", "shared_memory_byte_size": 9}, r"in region 'r' is 0 \+ 9; expected at most its 8 bytes"),
        ({"shared_memory_region": "none", "shared_memory_byte_size": 1}, "region is 'none', which is not registered"),
    ],
)
def test_what_an_output_cannot_be_is_said_before_anything_runs(
    folder: Path, memory: SharedMemory, parameters: dict[str, object], text: str
) -> None:
    memory.register("r", an_object(folder, "a", bytes(8)), 0, 8)
    request = oip.ModelInferRequest(model_name="m")
    output = request.outputs.add(name="o")
    fields = {str: "string_param", bool: "bool_param", int: "int64_param", float: "double_param"}
    for name, value in parameters.items():
        if value is None:
            output.parameters[name].SetInParent()
        else:
            setattr(output.parameters[name], fields[type(value)], value)
    with pytest.raises(BadRequest, match=text):
        deliveries_of(request, memory)


def test_an_output_larger_than_its_place_is_refused(folder: Path, memory: SharedMemory) -> None:
    memory.register("r", an_object(folder, "a", bytes(8)), 0, 8)
    request = oip.ModelInferRequest(model_name="m")
    placed(request.outputs.add(name="o"), "r", 4)
    with pytest.raises(BadRequest, match="byte_size of output 'o' is 4 bytes; expected at least the 8 of the output"):
        deliver({"o": np.zeros(1)}, deliveries_of(request, memory))
    assert (folder / "a").read_bytes() == bytes(8)
    with pytest.raises(BadRequest, match="region of output 'o' for model 'm' is 'r'; expected none: shared memory is"):
        deliveries_of(request, None)


def test_parameters_of_others_are_none_of_ours(memory: SharedMemory) -> None:
    request = oip.ModelInferRequest(model_name="m")
    request.outputs.add(name="o").parameters["binary_data"].bool_param = True
    assert deliveries_of(request, memory) == {}
    request.inputs.add(name="x", datatype="FP32", shape=[1]).parameters["mine"].string_param = "x"
    assert shared_bytes(request) == 0


CLIENT = """
import json, sys
import numpy as np
import tritonclient.grpc as triton
import tritonclient.utils.shared_memory as shm
from tritonclient.grpc import service_pb2
from tritonclient.utils import serialize_byte_tensor

prefix = sys.argv[1]
x = np.arange(32, dtype=np.int32).reshape(2, 16)
text = np.array(["é", "plain", ""], object)
serialized = serialize_byte_tensor(text)
size = len(serialized.item())
inputs = shm.create_shared_memory_region("inputs", f"/{prefix}-in", 7 + x.nbytes + size)
outputs = shm.create_shared_memory_region("outputs", f"/{prefix}-out", 1000)
try:
    shm.set_shared_memory_region(inputs, [x], offset=7)
    shm.set_shared_memory_region(inputs, [serialized], offset=7 + x.nbytes)
    request = service_pb2.ModelInferRequest(model_name="m")
    tensors = [triton.InferInput("x", x.shape, "INT32"), triton.InferInput("s", text.shape, "BYTES")]
    tensors[0].set_shared_memory("inputs", x.nbytes, offset=7)
    tensors[1].set_shared_memory("inputs", size, offset=7 + x.nbytes)
    request.inputs.extend(tensor._get_tensor() for tensor in tensors)
    wanted = [triton.InferRequestedOutput("double"), triton.InferRequestedOutput("text"), triton.InferRequestedOutput("top", 2)]
    wanted[0].set_shared_memory("outputs", 2 * x.nbytes, offset=100)
    wanted[1].set_shared_memory("outputs", 50)
    request.outputs.extend(output._get_tensor() for output in wanted)
    print(json.dumps([request.SerializeToString().hex(), 7 + x.nbytes + size]), flush=True)
    response = service_pb2.ModelInferResponse.FromString(bytes.fromhex(sys.stdin.readline()))
    result = triton.InferResult(response)
    shared = result.get_output("double")
    found = shm.get_contents_as_numpy(outputs, np.int64, list(shared.shape), offset=100)
    texts = shm.get_contents_as_numpy(outputs, np.object_, list(result.get_output("text").shape))
    print(json.dumps({
        "datatype": shared.datatype, "double": bool((found == 2 * x).all()),
        "text": [item.decode() for item in texts], "top": [item.decode() for item in result.as_numpy("top").ravel()],
    }), flush=True)
    del found
    sys.stdin.readline()
finally:
    for handle in (inputs, outputs):
        shm.destroy_shared_memory_region(handle)
"""


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no POSIX shared memory here")
def test_tritonclients_own_shared_memory_is_read_and_written() -> None:
    prefix = f"cutpoint-test-{uuid.uuid4().hex}"
    memory = SharedMemory()
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, prefix],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    try:
        assert client.stdin is not None and client.stdout is not None
        line = client.stdout.readline()
        assert line, client.communicate(timeout=60)[1]
        data, byte_size = json.loads(line)
        memory.register("inputs", f"/{prefix}-in", 0, byte_size)
        memory.register("outputs", f"/{prefix}-out", 0, 1000)
        request = oip.ModelInferRequest.FromString(bytes.fromhex(data))
        arrays = inputs_from(request, memory)
        assert arrays["x"].tolist() == np.arange(32).reshape(2, 16).tolist()
        assert [item.decode() for item in arrays["s"]] == ["é", "plain", ""]
        outputs = {
            "double": 2 * arrays["x"].astype(np.int64),
            "text": arrays["s"][::-1],
            "top": np.array([[0.5, 0.25, 4.0]], np.float32),
        }
        found, raws = deliver(outputs, deliveries_of(request, memory), ["a", "b", "c"])
        response = oip.ModelInferResponse(model_name="m", raw_output_contents=raws)
        for name, array in found.items():
            response.outputs.add(name=name, datatype="INT64" if name == "double" else "BYTES", shape=array.shape)
        client.stdin.write(response.SerializeToString().hex() + "\n")
        client.stdin.flush()
        answer = client.stdout.readline()
        assert answer, client.communicate(timeout=60)[1]
        assert json.loads(answer) == {
            "datatype": "INT64", "double": True, "text": ["", "plain", "é"], "top": ["4.000000:2:c", "0.500000:0:a"],
        }  # fmt: skip
    finally:
        memory.unregister()
        client.communicate("\n", timeout=60)
    assert client.returncode == 0
    assert not list(Path("/dev/shm").glob(f"{prefix}*"))


def test_a_region_whose_owner_let_its_lock_go_is_forgotten_when_another_comes(folder: Path, memory: SharedMemory) -> None:
    def registered() -> set[str]:
        return set(memory.status().regions)

    an_object(folder, "unlocked", bytes(8))
    memory.register("unlocked", "unlocked", 0, 8)
    with (folder / "locked").open("wb") as owner:
        owner.write(bytes(8))
        owner.flush()
        fcntl.flock(owner, fcntl.LOCK_EX)
        memory.register("locked", "locked", 0, 8)
        memory.register("locked too", "locked", 0, 8)
        an_object(folder, "third", bytes(8))
        memory.register("third", "third", 0, 8)
        assert registered() == {"unlocked", "locked", "locked too", "third"}
        slot = memory.slot("locked", 0, 8)
    an_object(folder, "fourth", bytes(8))
    memory.register("fourth", "fourth", 0, 8)
    assert registered() == {"unlocked", "third", "fourth"}  # of those nobody ever said that they end with their owner
    assert bytes(slot.read()) == bytes(8)
