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


@pytest.fixture(scope="session")
def image_folders_and_peers(tmp_path_factory):
    """Folders and pipelines by kind, 1.5 and 2.1."""
    from tests.pipelines.folders import write_image_pipeline

    folders = {kind: tmp_path_factory.mktemp("ldm") for kind in ("1.5", "2.1")}
    return {kind: (folder, write_image_pipeline(folder, kind)) for kind, folder in folders.items()}


@pytest.fixture(scope="session")
def image_folders(image_folders_and_peers):
    return {kind: folder for kind, (folder, _) in image_folders_and_peers.items()}


@pytest.fixture(scope="session")
def cogvideox_folders_and_peers(tmp_path_factory):
    """Folders and pipelines by kind, as the released models differ."""
    from tests.pipelines.folders import COGVIDEOX_KINDS, write_cogvideox_pipeline

    folders = {kind: tmp_path_factory.mktemp("cogvideox") for kind in COGVIDEOX_KINDS}
    return {
        kind: (folder, write_cogvideox_pipeline(folder, kind)) for kind, folder in folders.items()
    }


@pytest.fixture(scope="session")
def cogvideox_folders(cogvideox_folders_and_peers):
    return {kind: folder for kind, (folder, _) in cogvideox_folders_and_peers.items()}
