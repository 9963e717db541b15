"""Images in a bucket: a server that speaks S3 (moto's), a real Label Studio with a source storage, our fetching."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from label_studio_sdk import LabelStudio
from moto.server import ThreadedMotoServer
from PIL import Image

from backend.connection import call
from backend.image_limits import ImageLimits
from backend.images import ImageError, fetch_image
from backend.project import LabelStudioProject
from scripts.processes import free_port
from tests.live import new_project

BUCKET = "eyes"
KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
NAMED = ImageLimits(hosts=("127.0.0.1",))


@pytest.fixture(scope="module")
def storage() -> Iterator[str]:
    """The address of an S3 server whose bucket holds two images and an object that is none."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=free_port())
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    client = boto3.client("s3", endpoint_url=address, **KEYS)
    client.create_bucket(Bucket=BUCKET)
    for name, shade in (("left.png", 10), ("deep/right eye.png", 200)):
        client.put_object(Bucket=BUCKET, Key=name, Body=png(shade))
    yield address
    server.stop()


def png(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (8, 6), shade).save(stream, "PNG")
    return stream.getvalue()


def project_of_bucket(client: LabelStudio, storage: str, presign: bool) -> LabelStudioProject:
    """A project whose tasks are the bucket's objects, as Label Studio's own source storage makes them."""
    project = new_project(client)
    values: dict[str, Any] = {
        "project": project.project_id,
        "bucket": BUCKET,
        "s3_endpoint": storage,
        "use_blob_urls": True,
        "presign": presign,
        "recursive_scan": True,
        "regex_filter": r".*\.png",
        **KEYS,
    }
    made = call(client, "POST", "api/storages/s3", json=values)
    call(client, "POST", f"api/storages/s3/{made['id']}/sync", json={})
    return LabelStudioProject(client, project.project_id)


@pytest.mark.parametrize("presign", [True, False], ids=["signed", "through Label Studio"])
def test_the_tasks_of_a_source_storage_are_read(
    client: LabelStudio, storage: str, tmp_path: Path, presign: bool
) -> None:
    project = project_of_bucket(client, storage, presign)
    urls = [task.image_url for task in project.tasks()]
    # Not where browsers find them, LABEL_STUDIO_HOST, which in a network of containers leads somewhere else.
    assert sorted(urls) == ["s3://eyes/deep/right eye.png", "s3://eyes/left.png"]
    found = [fetch_image(url, client, tmp_path, NAMED, project.project_id).read_bytes() for url in urls]
    assert sorted(found) == sorted([png(10), png(200)])
    assert len(list(tmp_path.iterdir())) == 2


def test_a_task_that_names_an_object_is_read_and_what_cannot_be_is_named(
    client: LabelStudio, storage: str, tmp_path: Path
) -> None:
    project = project_of_bucket(client, storage, presign=True)

    def fetch(url: str, limits: ImageLimits = NAMED) -> bytes:
        return fetch_image(url, client, tmp_path, limits, project.project_id).read_bytes()

    assert fetch("s3://eyes/deep/right eye.png") == png(200)
    with pytest.raises(ImageError, match=r"^s3://eyes/absent\.png: the server answered 40[34]"):
        fetch("s3://eyes/absent.png")
    with pytest.raises(ImageError, match=r"^gs://eyes/left\.png: .*source storage"):
        fetch("gs://eyes/left.png")
    with pytest.raises(ImageError, match=r"^s3://eyes/left\.png: 127\.0\.0\.1 is neither.*TSP_IMAGE_HOSTS"):
        fetch("s3://eyes/left.png", ImageLimits())
