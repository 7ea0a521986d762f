import os

from PIL import Image

from deblur_jax.images.folders import images_below, look_below


def make(folder, *names):
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(file, "png")


def relative(files, folder):
    return [os.path.relpath(file, folder) for file in files]


def test_a_folder_named_like_an_image_is_a_folder(tmp_path):
    make(tmp_path, "trip.png/1.png", "2.png")
    assert relative(images_below(tmp_path), tmp_path) == ["2.png", "trip.png/1.png"]


def test_a_link_to_a_folder_above_is_not_followed_for_ever(tmp_path):
    make(tmp_path, "a.png", "b/c.png")
    (tmp_path / "b/again").symlink_to(tmp_path)
    (tmp_path / "loop").symlink_to(".")
    found = look_below(tmp_path)
    assert relative(found.images, tmp_path) == ["a.png", "b/c.png"]
    assert set(found.passed_over.values()) == {"a link to a folder that was read"}


def test_what_is_no_image_is_named(tmp_path):
    make(tmp_path, "a.png", "A.JPG", ".hidden.png")
    for name in ("notes.txt", "raw.dng"):
        (tmp_path / name).write_bytes(b"")
    found = look_below(tmp_path)
    assert relative(found.images, tmp_path) == ["A.JPG", "a.png"]
    assert found.line() == (
        f"passed over: {tmp_path}/notes.txt (no image), {tmp_path}/raw.dng (no image)"
    )


def test_the_images_of_a_page_are_left_out(tmp_path):
    make(tmp_path, "a.png", "compare/a.png.before.jpg", "other/b.png")
    (tmp_path / "compare.html").write_text("")
    found = look_below(tmp_path)
    assert relative(found.images, tmp_path) == ["a.png", "other/b.png"]
    reasons = [found.passed_over[f"{tmp_path}/{name}"] for name in ("compare", "compare.html")]
    assert reasons == ["the images of the page compare.html", "no image"]


def test_a_folder_can_be_left_out(tmp_path):
    make(tmp_path, "a.png", "out/b.png", "sub/c.png")
    found = look_below(tmp_path, leave_out=[os.path.realpath(tmp_path / "out")])
    assert relative(found.images, tmp_path) == ["a.png", "sub/c.png"]
    assert relative(look_below(tmp_path, recursive=False).images, tmp_path) == ["a.png"]
