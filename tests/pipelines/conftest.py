"""One tiny folder of each pipeline for all tests here, written by diffusers itself."""

import pytest


@pytest.fixture(scope="session")
def video_peer():
    from tests.pipelines.folders import video_pipeline  # imports the peers, for seconds

    return video_pipeline()


@pytest.fixture(scope="session")
def video_folder(video_peer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("svd")
    video_peer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", params=["1.5", "2.1"])
def image_folder_and_peer(request, tmp_path_factory):
    from tests.pipelines.folders import write_image_pipeline

    folder = tmp_path_factory.mktemp("ldm")
    return folder, write_image_pipeline(folder, request.param)
