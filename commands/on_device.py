"""Check the release bundle in every language and runtime that this machine has: `make on-device`.

    python commands/on_device.py [BUNDLE]

Each check runs the bundle's models on its golden vectors and prints a line: right, WRONG, or what this machine lacks.
Exit code: 0 nothing is wrong, 1 something is, or there is no bundle, 2 nothing could be checked.

`make web`, `make browser` and `make toolchains` bring what the checks need. A jar of ONNX Runtime for Java is not among
it: with one in CLASSPATH the Kotlin verifier is not only compiled, but run.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT / "stages"), str(PROJECT)]

from shared.kit import end_in_one_line  # noqa: E402 - after the path to it

if __name__ == "__main__":
    end_in_one_line()

from commands.screenshot import find_browser, launch  # noqa: E402
from shared.kit.stage import StageError, run  # noqa: E402
from shared.kit.text import printable  # noqa: E402
from shared.release.webpage import describe_run, read_sources, render  # noqa: E402

TOOLCHAINS = PROJECT / "commands" / "toolchains" / "node_modules"
ANDROID = TOOLCHAINS / "com.github.asus4.onnxruntime" / "Plugins" / "Android" / "onnxruntime.aar"
"""ONNX Runtime as an Android app takes it: its headers for C, its Java API, and libraries for Android alone."""
KOTLIN = TOOLCHAINS / "kotlin-compiler" / "lib"
ORG_JSON = Path("/usr/share/java/com.android.json.jar")
NATIVE = "ai/onnxruntime/native/"
"""Where ONNX Runtime's jar for desktops keeps its libraries."""
TIMEOUT_SECONDS = 300


class MissingError(Exception):
    """What this machine lacks for a check."""


class WrongError(Exception):
    """What a check found wrong."""


@dataclass(frozen=True)
class Check:
    """One way to run the bundle's models.

    Attributes:
        language: What the verifier is written in.
        runtime: What runs the models.
        check: Takes the bundle and an empty folder for what it builds; says what it found. Raises `MissingError` or
            `WrongError`.
    """

    language: str
    runtime: str
    check: Callable[[Path, Path], str]


def execute(*command: str | Path) -> str:
    """Run a program: what it printed.

    Raises:
        WrongError: It failed or did not end; with what it printed.
    """
    try:
        ran = subprocess.run(
            [str(word) for word in command], capture_output=True, text=True, errors="replace", timeout=TIMEOUT_SECONDS,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise WrongError(f"{Path(command[0]).name}: not ended after {TIMEOUT_SECONDS} s") from None
    if ran.returncode:
        raise WrongError((ran.stdout + ran.stderr).strip() or f"{Path(command[0]).name}: exit code {ran.returncode}")
    return ran.stdout.strip()


def program(name: str) -> str:
    """Where a program is.

    Raises:
        MissingError: It is not installed.
    """
    found = shutil.which(name)
    if found is None:
        raise MissingError(f"{name} is not installed")
    return found


def need(path: Path, what: str, how: str) -> None:
    """Make sure that a file is there.

    Raises:
        MissingError: It is not.
    """
    if not path.exists():
        raise MissingError(f"{what}: not installed; {how}")


def check_python(bundle: Path, _: Path) -> str:
    """The bundle's own verify.py."""
    return execute(sys.executable, bundle / "verify.py", bundle)


def build_node(bundle: Path, scratch: Path) -> list[str]:
    """Lay the verifier in JavaScript beside the runtime; the command that runs it."""
    modules = PROJECT / "web" / "node_modules"
    need(modules, "onnxruntime-web", "`make web` installs it")
    (scratch / "node_modules").symlink_to(modules)
    script = shutil.copy(bundle / "verifiers" / "javascript" / "verify.mjs", scratch / "verify.mjs")
    return [program("node"), str(script)]


def check_node(bundle: Path, scratch: Path) -> str:
    """The verifier in JavaScript, in node."""
    return execute(*build_node(bundle, scratch), bundle)


def check_page(bundle: Path, scratch: Path) -> str:
    """Every ONNX file of the run in WebAssembly, on the page that runs the model, in a browser without a network."""
    from playwright.sync_api import sync_playwright

    need(PROJECT / "web" / "node_modules", "onnxruntime-web", "`make web` installs it")
    browser = find_browser()
    if browser is None:
        raise MissingError("neither Chromium nor Chrome was found; `make browser` installs it")
    file = scratch / "model.html"
    file.write_bytes(bundle_page(bundle))
    with sync_playwright() as playwright, launch(playwright, browser) as started:
        page = started.new_context(offline=True).new_page()
        page.goto(file.as_uri())
        page.evaluate("classifier.ready")
        page.click("#verify")
        page.wait_for_function("document.getElementById('verdict').textContent !== ''")
        verdict = page.inner_text("#verdict")
    if not verdict.startswith("✓"):
        raise WrongError(verdict)
    return verdict


def bundle_page(bundle: Path) -> bytes:
    """The page in the bundle, or else that of the run."""
    page = bundle / "model.html"
    return page.read_bytes() if page.is_file() else render(read_sources(PROJECT / "web"), describe_run(Path()))


def unpack_android(folder: Path, *members: str) -> Path:
    """Unpack the files of ONNX Runtime for Android whose names begin as given; where they are now.

    Raises:
        MissingError: It is not installed.
    """
    need(ANDROID, "ONNX Runtime's headers and Java API", "`make toolchains` installs them")
    with zipfile.ZipFile(ANDROID) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith(members)])
    return folder


def build_c(bundle: Path, scratch: Path) -> Path:
    """Compile the verifier in C; the program."""
    compiler = program("cc")
    try:
        execute(compiler, "-E", "-include", "cjson/cJSON.h", "-x", "c", os.devnull, "-o", os.devnull)
    except WrongError:
        raise MissingError("cJSON: not installed; `make toolchains` installs it") from None
    return compile_c(bundle / "verifiers" / "c" / "verify.c", scratch, "-lcjson", "-lm")


def compile_c(source: Path, scratch: Path, *libraries: str) -> Path:
    """Compile a program in C against the library that onnxruntime's Python package brings; the program.

    Raises:
        MissingError: There is no compiler, or there are no headers.
        WrongError: The compiler refuses it.
    """
    compiler = program("cc")
    headers = unpack_android(scratch, "headers/") / "headers"
    import onnxruntime

    suffix = "dylib" if platform.system() == "Darwin" else "so"
    [library] = (Path(onnxruntime.__file__).parent / "capi").glob(f"libonnxruntime.*{suffix}*")
    for name in (f"libonnxruntime.{suffix}", "libonnxruntime.so.1", library.name):  # by what it calls itself, too
        (scratch / name).symlink_to(library)
    built = scratch / source.stem
    execute(
        compiler, "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-I", headers, source, "-L", scratch,
        "-lonnxruntime", f"-Wl,-rpath,{scratch}", *libraries, "-o", built,
    )  # fmt: skip
    return built


def check_c(bundle: Path, scratch: Path) -> str:
    """The verifier in C, compiled and run."""
    return execute(build_c(bundle, scratch), bundle)


def desktop_jar() -> Path | None:
    """The jar in CLASSPATH that holds ONNX Runtime with libraries for desktops."""
    for entry in os.environ.get("CLASSPATH", "").split(os.pathsep):
        if zipfile.is_zipfile(entry):
            with zipfile.ZipFile(entry) as jar:
                if any(name.startswith(NATIVE) for name in jar.namelist()):
                    return Path(entry)
    return None


def build_kotlin(bundle: Path, scratch: Path) -> list[str]:
    """Compile the verifier in Kotlin; the command that runs it, short of a jar of ONNX Runtime."""
    java = program("java")
    need(KOTLIN, "the Kotlin compiler", "`make toolchains` installs it")
    need(ORG_JSON, "org.json (on Debian libandroid-json-java)", "`make toolchains` installs it")
    api = unpack_android(scratch, "classes.jar") / "classes.jar"
    built = scratch / "verify.jar"
    execute(
        java, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", KOTLIN / "*",  # starts in half the time
        "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", "-Werror", "-no-reflect", "-no-stdlib",
        "-cp", os.pathsep.join(map(str, (KOTLIN / "kotlin-stdlib.jar", ORG_JSON, api))),
        bundle / "verifiers" / "kotlin" / "Verify.kt", "-d", built,
    )  # fmt: skip
    return [java, "-cp", os.pathsep.join(map(str, (built, KOTLIN / "kotlin-stdlib.jar", ORG_JSON)))]


def check_kotlin(bundle: Path, scratch: Path) -> str:
    """The verifier in Kotlin: compiled against ONNX Runtime for Android, and run on that for desktops."""
    java, option, classes = build_kotlin(bundle, scratch)
    jar = desktop_jar()
    if jar is None:
        raise MissingError("compiled; to run it, put a jar of ONNX Runtime for Java (from Maven) into CLASSPATH")
    return execute(java, option, f"{classes}{os.pathsep}{jar}", "VerifyKt", bundle)


def parse_swift(file: Path) -> None:
    """Parse a file of Swift.

    Raises:
        WrongError: It is not Swift; with the line.
    """
    import tree_sitter
    import tree_sitter_swift

    root = tree_sitter.Parser(tree_sitter.Language(tree_sitter_swift.language())).parse(file.read_bytes()).root_node
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node.is_error or node.is_missing:
            raise WrongError(f"{file.name}, line {node.start_point.row + 1}: not Swift")
        waiting += node.children


def check_swift(bundle: Path, scratch: Path) -> str:
    """The verifier in Swift: run on a Mac, parsed elsewhere."""
    folder = bundle / "verifiers" / "swift"
    for file in sorted(folder.glob("*.swift")):
        parse_swift(file)
    if platform.system() != "Darwin":
        raise MissingError("parsed; Core ML runs on macOS and iOS alone")
    return execute(program("swift"), "test", "--package-path", folder, "--scratch-path", scratch)


CHECKS = [
    Check("Python", "ONNX Runtime, Core AI, Core ML", check_python),
    Check("JavaScript", "WebAssembly in node", check_node),
    Check("JavaScript", "WebAssembly in a browser", check_page),
    Check("C", "ONNX Runtime", check_c),
    Check("Kotlin", "ONNX Runtime", check_kotlin),
    Check("Swift", "Core ML", check_swift),
]


def check_bundle(bundle: Path) -> int:
    """Run every check, and print what each found; the exit code."""
    right = wrong = 0
    for check in CHECKS:
        with tempfile.TemporaryDirectory() as scratch:
            try:
                found = check.check(bundle, Path(scratch))
                verdict, right = "right", right + 1
            except MissingError as error:
                verdict, found = "not run", str(error)
            except (WrongError, StageError) as error:
                verdict, found, wrong = "WRONG", str(error), wrong + 1
        print(f"{check.language + ', ' + check.runtime:<40} {verdict}")
        for line in found.splitlines():
            print(f"    {printable(line)}", flush=True)
    print(f"\n{len(CHECKS)} checks: {right} right, {wrong} wrong, {len(CHECKS) - right - wrong} not run")
    return 1 if wrong else 0 if right else 2


def main() -> None:
    """Read the arguments; check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path, default=Path("models/release"), help="default: models/release")
    bundle = parser.parse_args().bundle.resolve()
    if not (bundle / "release.json").is_file():
        raise StageError(f"{bundle}: no release bundle; `make repro` makes one")
    sys.exit(check_bundle(bundle))


if __name__ == "__main__":
    run(main)
