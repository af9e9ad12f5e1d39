"""Models pulled from a hub over real HTTP, with everything that goes wrong on the way."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio

from r3mes.actors.inference.client import InferenceClient
from r3mes.actors.inference.files import hash_model
from r3mes.actors.inference.hub import Hub
from r3mes.actors.inference.imported import DirectorySource
from r3mes.actors.inference.library import MANIFEST, Kept, Library
from r3mes.actors.inference.pulling import Patience, Pull
from r3mes.actors.inference.pulls import IMPORTED, Job, Pulls
from r3mes.actors.inference.source import find_model, is_here
from r3mes.errors import (
    BadRequest,
    HubUnreachable,
    ModelInvalid,
    ModelMissing,
    NotFound,
    NotReady,
    R3mesError,
    StoreFull,
)
from tests.actors.inference.small_hub import COMMIT, LARGE, NEXT, Fault, SmallHub, serving_hub

ID = "someone/tiny"
QUICK = Patience(tries=3, first_s=0.01)
Toy = Callable[..., AbstractAsyncContextManager[InferenceClient]]


def tensor(size: int) -> bytes:
    header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(range(256)) * (size // 256)


def files() -> dict[str, bytes]:
    return {
        "config.json": b'{"model_type": "llama"}',
        "tokenizer.json": b"{}",
        LARGE: tensor(3 << 20),
        "README.md": b"read me",
        "pytorch_model.bin": b"pickled",
        "evil.py": b"import os",
    }


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "models")


@pytest.fixture
async def hub() -> AsyncIterator[SmallHub]:
    async with serving_hub(SmallHub(files())) as served:
        yield served


def pull(hub: SmallHub, library: Library, revision: str = "main", **options: Any) -> Pull:
    source = Hub(hub.endpoint, **({"stall_s": 5.0} | options))
    return Pull(library, source, ID, revision, QUICK)


async def pulled(hub: SmallHub, library: Library, revision: str = "main") -> Kept:
    with trio.fail_after(20):
        return await pull(hub, library, revision).run()


async def test_what_is_needed_is_pulled_checked_and_found(hub: SmallHub, library: Library) -> None:
    kept = await pulled(hub, library)
    assert sorted(os.listdir(kept.directory)) == sorted(
        ["config.json", "tokenizer.json", LARGE, MANIFEST]
    )
    assert (kept.directory / LARGE).read_bytes() == hub.files[LARGE]
    assert kept.manifest.hash == hash_model(kept.directory).hex()
    assert kept.size == sum(len(hub.files[name]) for name in kept.manifest.files)
    for revision in ("main", COMMIT):
        assert find_model(ID, revision, library) == kept.directory
    assert not is_here(ID, "other", library)
    assert [one.manifest.model for one in library.every()] == [ID]


async def test_a_revision_stays_what_it_was_until_it_is_pulled_again(
    hub: SmallHub, library: Library
) -> None:
    first = await pulled(hub, library)
    hub.commit, hub.files[LARGE] = NEXT, tensor(1 << 20)
    assert find_model(ID, "main", library) == first.directory
    again = pull(hub, library)
    second = await again.run()
    assert again.progress.was == COMMIT
    assert find_model(ID, "main", library) == second.directory != first.directory
    assert find_model(ID, COMMIT, library) == first.directory  # who pinned it keeps it
    hub.commit = COMMIT
    asked = len(hub.asked)
    assert (await pulled(hub, library)).directory == first.directory
    assert len(hub.asked) == asked + 1  # the listing only


@pytest.mark.parametrize("how", ["cut", "stall", "503", "429"])
@pytest.mark.parametrize("ranges", [True, False])
async def test_a_transfer_that_breaks_goes_on(
    hub: SmallHub, library: Library, how: str, ranges: bool
) -> None:
    hub.faults[LARGE], hub.ranges = Fault(how, after=2 << 20), ranges
    job = pull(hub, library, stall_s=0.3)
    with trio.fail_after(20):
        kept = await job.run()
    assert (kept.directory / LARGE).read_bytes() == hub.files[LARGE]
    assert hub.offsets == (["bytes=2097152-"] if how in ("cut", "stall") else [])
    assert job.progress.done_bytes == job.progress.total_bytes == kept.size


async def test_a_stall_is_named_with_its_host(hub: SmallHub, library: Library) -> None:
    hub.faults[LARGE], hub.moved = Fault("stall", times=9), True
    with pytest.raises(HubUnreachable, match=r"no byte for 0\.1 s from 127\.0\.0\.2:"):
        await pull(hub, library, stall_s=0.1).run()


async def test_what_a_pull_has_left_is_not_pulled_again(hub: SmallHub, library: Library) -> None:
    hub.faults[LARGE] = Fault("stall", after=1 << 20)
    job = pull(hub, library)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(job.run)
        with trio.fail_after(10):
            while job.progress.done_bytes < 1 << 20:  # noqa: ASYNC110  progress tells no event
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert not is_here(ID, "main", library)
    kept = await pulled(hub, library)
    assert hub.offsets == [f"bytes={1 << 20}-"]
    assert hub.counts["config.json"] == 1
    assert set(kept.manifest.files) == {"config.json", "tokenizer.json", LARGE}


@pytest.mark.parametrize("name", [LARGE, "config.json"])
async def test_a_wrong_file_is_refused_and_removed(
    hub: SmallHub, library: Library, name: str
) -> None:
    hub.faults[name] = Fault("wrong")
    with pytest.raises(ModelInvalid, match=rf"{name} from 127.* is not what was announced"):
        await pulled(hub, library)
    assert not [path for path in library.root.rglob(f"{name}*") if path.is_file()]
    assert (await pulled(hub, library)).manifest.files.keys() >= {name}


async def test_no_more_is_taken_than_was_announced(hub: SmallHub, library: Library) -> None:
    hub.faults[LARGE] = Fault("more")
    with pytest.raises(ModelInvalid, match="sends more than it announced"):
        await pulled(hub, library)


async def test_a_hub_that_is_not_there_is_asked_again_and_then_told(library: Library) -> None:
    nowhere = SmallHub({}, endpoint="http://127.0.0.1:1")
    with pytest.raises(HubUnreachable, match=r"127\.0\.0\.1:1 failed") as told:
        await pulled(nowhere, library)
    assert "hub.endpoint" in told.value.do


@pytest.mark.parametrize(
    ("status", "error"),
    [("404", ModelMissing), ("401", ModelMissing), ("418", ModelMissing), ("500", HubUnreachable)],
)
async def test_what_the_hub_refuses(
    hub: SmallHub, library: Library, status: str, error: type[R3mesError]
) -> None:
    hub.faults["listing"] = Fault(status, times=9)
    with pytest.raises(error):
        await pulled(hub, library)
    assert len(hub.asked) == (3 if error is HubUnreachable else 1)


@pytest.mark.parametrize(
    ("listing", "error", "why"),
    [
        ([], HubUnreachable, "does not speak"),
        ({"sha": "../../etc", "siblings": []}, HubUnreachable, "names no commit"),
        (
            {"sha": COMMIT, "siblings": [{"rfilename": "config.json"}]},
            HubUnreachable,
            "neither size",
        ),
        ({"sha": COMMIT, "siblings": []}, ModelInvalid, "no config.json"),
        (
            {
                "sha": COMMIT,
                "siblings": [{"rfilename": "config.json", "size": 1 << 40, "blobId": "0" * 40}],
            },
            ModelInvalid,
            "has 1048576 MiB, and a file",
        ),
    ],
)
async def test_a_listing_that_makes_no_sense(
    hub: SmallHub, library: Library, listing: Any, error: type[R3mesError], why: str
) -> None:
    hub.listing = listing or [1]
    with pytest.raises(error, match=why):
        await pulled(hub, library)


async def test_pickled_weights_are_refused_before_the_first_byte(
    hub: SmallHub, library: Library
) -> None:
    del hub.files[LARGE]
    with pytest.raises(ModelInvalid, match="no safetensors weights"):
        await pulled(hub, library)
    assert len(hub.asked) == 1


async def test_files_are_never_put_elsewhere(hub: SmallHub, library: Library) -> None:
    for name in (
        "../evil.json",
        "/etc/evil.json",
        "a/b.json",
        ".hidden.json",
        "1_Pooling/../x.json",
    ):
        hub.files[name] = b"{}"
    hub.files["1_Pooling/config.json"] = b"{}"
    kept = await pulled(hub, library)
    assert set(kept.manifest.files) == {
        "1_Pooling/config.json", "config.json", "tokenizer.json", LARGE,
    }  # fmt: skip


async def test_a_token_goes_to_the_endpoint_and_no_further(hub: SmallHub, library: Library) -> None:
    hub.moved = True
    await pull(hub, library, token="hf_" + "a" * 9).run()
    told = {path: headers.get("authorization") for path, headers in hub.asked}
    assert told.pop(f"/elsewhere/{LARGE}") is None
    assert set(told.values()) == {"bearer hf_aaaaaaaaa"}


async def test_a_disk_without_room_is_told_before_and_a_full_one_while_pulling(
    hub: SmallHub, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.disk_usage
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=1 << 20))
        with pytest.raises(StoreFull, match="needs 3 MiB more, and 1 are free"):
            await pulled(hub, library)
    assert hub.counts[LARGE] == 0

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreFull, match="no space is left") as told:
            await pulled(hub, library)
    assert "goes on from here" in told.value.do
    assert not is_here(ID, "main", library)
    await pulled(hub, library)


async def test_two_processes_do_not_pull_the_same(hub: SmallHub, library: Library) -> None:
    with library.draft(ID, COMMIT):
        with pytest.raises(NotReady, match="pulled already"):
            await pulled(hub, library)
        with pytest.raises(NotReady):
            library.remove(ID)
    await pulled(hub, library)
    assert library.remove(ID) > 3 << 20
    assert not is_here(ID, "main", library)
    for name in (ID, "../x", "."):
        with pytest.raises(ModelMissing):
            library.remove(name)


async def test_a_directory_is_copied_and_checked(library: Library, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for name, content in files().items():
        (own / name).write_bytes(content)
    (own / LARGE).rename(tmp_path / "weights")
    (own / LARGE).symlink_to(tmp_path / "weights")
    kept = await Pull(library, DirectorySource(own), "mine", IMPORTED).run()
    assert find_model("mine", "main", library) == kept.directory
    assert kept.manifest.hash == kept.manifest.commit == hash_model(own).hex()
    assert not (kept.directory / LARGE).is_symlink()
    assert not (kept.directory / "evil.py").exists()
    (own / LARGE).write_bytes(b"broken")
    with pytest.raises(ModelInvalid, match="cut off"):
        await Pull(library, DirectorySource(own), "mine", IMPORTED).run()
    assert not list(kept.directory.parent.glob("*.partial"))
    with pytest.raises(ModelMissing, match="no directory"):
        await Pull(library, DirectorySource(tmp_path / "none"), "mine", IMPORTED).run()


async def test_a_directory_has_no_other_files_copied(library: Library, tmp_path: Path) -> None:
    own = tmp_path / "cache" / "snapshots" / "c0ffee"
    own.mkdir(parents=True)
    blobs = tmp_path / "cache" / "blobs"
    blobs.mkdir()
    for name, content in files().items():
        (own / name).write_bytes(content)
    (own / "config.json").rename(blobs / "1234")
    (own / "config.json").symlink_to("../../blobs/1234")  # as a hub's cache has it
    await Pull(library, DirectorySource(own), "mine", IMPORTED).run()
    (tmp_path / "secret").write_text("{}")
    (own / "generation_config.json").unlink(missing_ok=True)
    (own / "generation_config.json").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelInvalid, match="outside of the model"):
        await Pull(library, DirectorySource(own), "yours", IMPORTED).run()


async def test_jobs_are_told_cancelled_and_joined(
    hub: SmallHub, library: Library, nursery: trio.Nursery
) -> None:
    told: list[str] = []
    pulls = Pulls(
        library, Hub(hub.endpoint), tell=lambda job: told.append(job.state), patience=QUICK
    )
    with pytest.raises(NotReady):
        pulls.pull(ID, "main")
    await nursery.start(pulls.run)
    hub.faults[LARGE] = Fault("stall", after=100)
    job = pulls.pull(ID, "main")
    assert pulls.pull(ID, "main") is job
    with trio.fail_after(10):
        while not hub.counts[LARGE]:  # noqa: ASYNC110  progress tells no event
            await trio.sleep(0.01)
        pulls.cancel(job.id)
        await job.ended.wait()
    assert told == ["running", "cancelled"]
    with trio.fail_after(10):
        assert await pulls.pulled(ID, "main") == find_model(ID, "main", library)
        hub.faults["listing"] = Fault("404")
        with pytest.raises(ModelMissing):
            await pulls.pulled(ID, "none")
    assert [one.state for one in pulls.jobs()] == ["failed", "done", "cancelled"]
    assert isinstance(pulls.job("pull-3"), Job)
    with pytest.raises(NotFound):
        pulls.job("pull-4")
    for name in ("", "a/b/c", "../x", "a" * 200 + "/.."):
        with pytest.raises(BadRequest):
            pulls.pull(name, "main")


@pytest.mark.slow
async def test_a_model_that_was_changed_after_it_was_pulled_is_not_served(
    toy: Toy, toy_dir: Path, library: Library
) -> None:
    kept = await Pull(library, DirectorySource(toy_dir), "mine", IMPORTED).run()
    async with toy(source="mine", library=library.root) as client:
        (manifest,) = client.manifests()
        assert manifest.hash.hex() == kept.manifest.hash
    (kept.directory / "chat_template.jinja").write_text("other")
    async with toy(source="mine", library=library.root) as client:
        error = client.boards()["toy"].error
        assert isinstance(error, ModelInvalid)
        assert "chat_template.jinja in" in error.detail
        assert "is not what was pulled" in error.detail
