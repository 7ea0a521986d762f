"""The page, built with Gradio. It sends nothing anywhere and loads nothing from elsewhere."""

import contextlib
import os
import shutil
import tempfile
import time
import uuid
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

from deblur_jax.demo.service import Service
from deblur_jax.errors import UserError
from deblur_jax.inference.ensemble import ENSEMBLES
from deblur_jax.runtime.signals import removed_if_stopped

_NO_ENSEMBLE = "none"
_SECONDS_KEPT = 1800.0
"""Of a restored image, or an upload that nobody had restored, until it is deleted."""
_SECONDS_BETWEEN_LOOKS = 60.0
_EXAMPLE = "street.jpg"
_LARGEST_UPLOAD = "200mb"
_FONTS = ["system-ui", "sans-serif"]
_FIXED_FONTS = ["ui-monospace", "monospace"]
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self' data: blob:; form-action 'self'"
)
"""The browser refuses whatever comes from another address."""


class DemoError(UserError, RuntimeError):
    """The page can't be shown."""


def gradio() -> ModuleType:
    """Gradio, with its telemetry switched off.

    Raises:
        DemoError: if it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio
    except ModuleNotFoundError as error:
        raise DemoError(
            f"the page needs Gradio, whose part {error.name} is missing: pip install gradio"
        ) from None
    return gradio


def show(service: Service, *, host: str, port: int, max_waiting: int) -> None:
    """Serves the page until the process is stopped.

    Args:
        service: what restores.
        host: the address to listen on.
        port: on it.
        max_waiting: requests that may wait; one more is refused with a message.

    Raises:
        DemoError: if the address can't be listened on, or Gradio is missing.
    """
    gr = gradio()
    folder = Path(tempfile.mkdtemp(prefix="deblur_jax_demo_"))
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    page = _page(gr, service, folder)
    page.queue(
        max_size=max_waiting, default_concurrency_limit=jax.local_device_count(), api_open=False
    )
    with removed_if_stopped(_Folder(folder)):
        try:
            _launch(gr, page, host, port)
            print(f"the page is at http://{host}:{port}; Ctrl-C ends it", flush=True)
            while True:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                delete_older(folder, _SECONDS_KEPT)
        finally:
            page.close()
            shutil.rmtree(folder, ignore_errors=True)


def delete_older(folder: Path, seconds: float) -> None:
    """Deletes the files below a folder that were last written so many seconds ago, or more."""
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):  # another thread may have deleted it
            if file.is_file() and time.time() - file.stat().st_mtime >= seconds:
                file.unlink()


class _Folder:
    """A folder to be deleted with all that is in it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def unlink(self, **options: Any) -> None:
        """Deletes it, as ``Path.unlink`` does a file."""
        del options
        shutil.rmtree(self._path, ignore_errors=True)


def _launch(gr: ModuleType, page: Any, host: str, port: int) -> None:
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=_LARGEST_UPLOAD,
            footer_links=[],
            ssr_mode=False,
            run_history=False,
            enable_monitoring=False,
            mcp_server=False,
            pwa=False,
            theme=gr.themes.Default(font=_FONTS, font_mono=_FIXED_FONTS),
            app_kwargs={"middleware": [_refuse_other_addresses()]},
        )
    except OSError as error:
        raise DemoError(
            f"--host {host} --port {port}: can't be listened on ({error}): choose another --port"
        ) from None


def _page(gr: ModuleType, service: Service, folder: Path) -> Any:
    def restore(
        upload: str | None,
        weights: str,
        ensemble: str,
        progress: Any = gr.Progress(),  # noqa: B008  # how Gradio finds it
    ) -> tuple:
        if not upload:
            raise gr.Error("Choose an image first.", print_exception=False)
        image = Path(upload)
        progress(0.0, desc="restoring")
        try:
            result = service(
                image,
                folder / uuid.uuid4().hex,
                weights=weights,
                ensemble=None if ensemble == _NO_ENSEMBLE else ensemble,
                progress=lambda done: progress(done, desc="restoring"),
            )
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None
        finally:
            if image.is_relative_to(folder):
                image.unlink(missing_ok=True)
        shown = (result.before, result.after)
        return gr.update(value=shown, visible=True), str(result.file), result.words, None

    def example() -> str:
        # A copy, since what is restored is deleted.
        copy = folder / uuid.uuid4().hex / _EXAMPLE
        copy.parent.mkdir()
        copy.write_bytes((resources.files(__package__) / "examples" / _EXAMPLE).read_bytes())
        return str(copy)

    with gr.Blocks(title="deblur_jax", analytics_enabled=False) as page:
        gr.Markdown(
            "# deblur_jax\nUndoes the blur of photographs. What you upload stays on the machine "
            "that serves this page, and is deleted when it has been restored; the restored image "
            "is deleted after half an hour."
        )
        with gr.Row():
            with gr.Column(scale=1):
                upload = gr.File(
                    label=f"An image of at most {service.max_megapixels:g} megapixels",
                    type="filepath",
                    elem_id="upload",
                )
                try_example = gr.Button(
                    "Take the example (REDS, Nah et al., CVPRW 2019, CC BY 4.0)",
                    size="sm",
                    elem_id="example",
                )
                weights = gr.Dropdown(service.weights, value=service.weights[0], label="Weights")
                ensemble = gr.Dropdown(
                    [_NO_ENSEMBLE, *ENSEMBLES],
                    value=_NO_ENSEMBLE,
                    label="Ensemble (of 4 or 8 turned copies: as many times slower)",
                )
                button = gr.Button("Restore", variant="primary", elem_id="restore")
            with gr.Column(scale=3):
                slider = gr.ImageSlider(
                    label="Before and after", type="pil", format="jpeg", visible=False
                )
                words = gr.Textbox(label="What was done", interactive=False, elem_id="words")
                file = gr.File(label="The restored image", interactive=False)
        button.click(restore, [upload, weights, ensemble], [slider, file, words, upload])
        try_example.click(example, None, upload)
    return page


def _refuse_other_addresses() -> Any:
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware

    async def add_policy(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = _POLICY
        return response

    return Middleware(BaseHTTPMiddleware, dispatch=add_policy)
