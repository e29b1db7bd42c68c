"""The benchmark of accuracies on a tiny archive, by its own commands: what it runs, what it keeps, what it refuses."""

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from benchmarks import coverage
from benchmarks.protocol import Protocol
from benchmarks.refusals import refuse_contradictions
from benchmarks.rows import architecture

from amalgam.dataset import LabelSets, PreparedSplit
from amalgam.errors import UserError
from amalgam.files import sha256_of_file
from amalgam.models import save_weights
from amalgam.networks import build_network
from amalgam.params_file import load_params
from amalgam.teachers import OwnImages
from conftest import ROOT, Repository, make_repository, write_images

COMMON = {"student_resolution": 32, "batch_size": 16, "num_epochs": 1, "views": 1, "optimizer": "sgd"}
ROWS: dict[str, dict[str, Any]] = {"alone": {"alpha": 0}, "stacked": {"target": "stacked", "stored_teachers": "all", "label_fraction": 0.5}}
PROTOCOL = {
    "seeds": [0, 1],
    "teacher": {"num_epochs": 1},
    "common": COMMON,
    "grid": [{"lr": 0.003}],
    "rows": ROWS,
    "control": "alone",
    "controls": {},
    "reference": "unrouted teachers",
}
RESULTS = "benchmarks/accuracy.results.json"
OF_TEACHERS = "teachers taskA seed {}, num_epochs 1"  # their entry


def accuracy(repository: Repository, command: str, *more: str, check: bool = True, **changes: Any) -> str:
    """What the command prints, or complains of."""
    (repository.root / "protocol.yaml").write_text(yaml.safe_dump(PROTOCOL | changes))
    if command == "run":
        repository.run("git", "add", *(path.name for path in repository.root.glob("protocol*.yaml")))
        repository.run("git", "commit", "-q", "-m", "protocol", check=False)  # nothing to do where it is the same
    archive = [] if command == "table" else ["images"]
    words = ("python", "benchmarks/accuracy.py", command, *archive, "--task", "A", "--protocol", "protocol.yaml", *more)
    done = repository.run(*words, check=check, PYTHONPATH="src:.")
    assert (done.returncode == 0) == check
    assert "Traceback" not in done.stderr
    return done.stdout if check else done.stderr


def entries(repository: Repository) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((repository.root / RESULTS).read_text())
    return found


def of_row(repository: Repository, row: str) -> list[dict[str, Any]]:
    return [found for found in entries(repository).values() if found.get("row") == row]


@pytest.fixture(scope="module")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = make_repository(tmp_path_factory.mktemp("benchmark") / "repository")
    shutil.copytree(ROOT / "benchmarks", repository.root / "benchmarks", ignore=shutil.ignore_patterns("*.results.json", "__pycache__"))
    repository.commit("benchmarks")
    accuracy(repository, "run", "--jobs", "2")
    return repository.root


@pytest.fixture
def bench(run_once: Path, tmp_path: Path) -> Repository:
    """A copy of a repository in which the protocol was run."""
    shutil.copytree(run_once, tmp_path / "repository", symlinks=True)
    return Repository(tmp_path / "repository")


def test_every_row_and_seed_is_run_and_the_table_tells(bench: Repository) -> None:
    assert [len(of_row(bench, row)) for row in ROWS] == [2, 2]
    told = accuracy(bench, "table")
    names = ("alone", "stacked", "*teachers, oracle-routed*", "*teachers, unrouted*", "*teachers, combined as for stacked*")
    for name in names:
        assert told.count(f"| {name} |") == 1
    others = accuracy(bench, "table", teacher={"num_epochs": 2})
    assert "| alone |" in others, "a student that learns from labels alone depends on no teacher"
    assert others.count("|\n") == 3, "nothing of other teachers"


def test_a_mistyped_setting_is_refused(bench: Repository) -> None:
    """A protocol says what its rows and teachers were made with."""
    assert "protocol.yaml: num_epoch: " in accuracy(bench, "run", check=False, teacher={"num_epoch": 1})
    assert "protocol.yaml: lr: 'fast' is refused" in accuracy(
        bench, "run", check=False, rows={"alone": {"alpha": 0, "lr": "fast"}}, grid=[{}]
    )


def test_teachers_may_be_fine_tuned_classifiers(bench: Repository) -> None:
    """The student of labels alone is not run again; the teachers of before and these are kept apart, and each is one network of its own."""
    before = entries(bench)
    teacher = COMMON | {"student_model": "MobileNetV3", "pretrained": False, "lr": 0.01}
    told = accuracy(bench, "run", "--seeds", "0", teacher=teacher)
    assert "| alone |" in told
    assert before.items() <= entries(bench).items()
    assert [found["seed"] for found in of_row(bench, "stacked")].count(0) == 2
    assert "teachers taskA seed 0, " + ", ".join(f"{name} {value}" for name, value in sorted(teacher.items())) in entries(bench)
    manifests = [json.loads(path.read_text()) for path in (bench.root / ".amalgam/accuracy").glob("*/seed0/models/taskA/*/manifest.json")]
    finetuned = [manifest for manifest in manifests if manifest["architecture"] == "MobileNetV3"]
    assert len(finetuned) == len(manifests) - len(finetuned) > 1
    assert len({manifest["weights_sha256"] for manifest in finetuned}) == len(finetuned)


def test_teachers_are_told_of_where_every_seed_has_them(bench: Repository) -> None:
    known = entries(bench)
    del known[OF_TEACHERS.format(1)]
    (bench.root / RESULTS).write_text(json.dumps(known))
    assert "*teachers, unrouted*" not in accuracy(bench, "table")
    assert "*teachers, unrouted*" in accuracy(bench, "table", "--seeds", "0")


def test_teachers_of_a_machine_that_computes_otherwise_are_refused_before_any_is_trained(bench: Repository) -> None:
    """What depends on no teacher is run there too, wherever it stands."""
    known = entries(bench)
    here = known[OF_TEACHERS.format(0)]
    assert re.fullmatch("[0-9a-f]{16}", here["arithmetic"])
    known[OF_TEACHERS.format(0)] = here | {"arithmetic": "another", "machine": "a toaster"}
    (bench.root / RESULTS).write_text(json.dumps(known))
    for made in (".amalgam/accuracy", ".amalgam/teachers"):
        shutil.rmtree(bench.root / made)
    more = ROWS | {"taught": {"target": "mean"}, "more": {"alpha": 0, "batch_size": 8}}
    said = accuracy(bench, "run", "--rows", "taught", "more", "--seeds", "0", check=False, rows=more)
    assert "taught, seed 0: the teachers of seed 0 of taskA were made on a toaster, where sums end in other bits than on " in said
    assert f"another, here {here['arithmetic']})" in said
    assert list((bench.root / ".amalgam/teachers").glob("*/weights*")) == []
    assert [len(of_row(bench, row)) for row in ("taught", "more")] == [0, 1]


def test_teachers_that_are_made_again_are_those_of_the_machine_that_made_them_first(bench: Repository) -> None:
    """Another processor may be told to compute alike (docs/experiments.md, Protocol)."""
    known = entries(bench)
    known[OF_TEACHERS.format(0)] |= {"machine": "a toaster"}
    (bench.root / RESULTS).write_text(json.dumps(known))
    accuracy(bench, "run", "--rows", "taught", "--seeds", "0", rows=ROWS | {"taught": {"target": "mean"}})
    assert entries(bench)[OF_TEACHERS.format(0)] == known[OF_TEACHERS.format(0)]
    assert len(of_row(bench, "taught")) == 1


def test_an_entry_says_which_code_and_images_made_it(bench: Repository) -> None:
    """A plus says that the code was not the commit's."""
    head = bench.run("git", "rev-parse", "HEAD").stdout.strip()
    for row in ROWS:
        for found in of_row(bench, row):
            (place,) = (bench.root / ".amalgam/accuracy").glob(f"*/seed{found['seed']}/prepared/taskA")
            contents = [json.loads((place / split / "content.json").read_text())["sha256"] for split in ("trainval", "test")]
            assert [found["commit"], found["training_images"], found["test_images"]] == [head, *contents]
    bench.edit("src/amalgam/notes.py", lambda text: f"{text}\n# another\n")
    accuracy(bench, "run", "--rows", "more", "--seeds", "0", rows=ROWS | {"more": {"alpha": 0, "batch_size": 8}})
    assert [found["commit"] for found in of_row(bench, "more")] == [bench.run("git", "rev-parse", "HEAD").stdout.strip() + "+"]


MEANWHILE = """
import subprocess
from benchmarks.accuracy import work
from benchmarks.measured import commit
def commit_and_tell(_):
    subprocess.run(["git", "commit", "-q", "--allow-empty", "-m", "meanwhile"], check=True)
    return commit()
if __name__ == "__main__":
    print(*work(commit_and_tell, [1, 2], 1))
"""


def test_an_entry_names_the_commit_of_the_code_that_was_read_when_its_process_began(bench: Repository) -> None:
    head = bench.run("git", "rev-parse", "HEAD").stdout.strip()
    (bench.root / "meanwhile.py").write_text(MEANWHILE)
    assert bench.run("python", "meanwhile.py", PYTHONPATH="src:.").stdout.split() == [head, head]
    assert bench.run("git", "rev-parse", "HEAD").stdout.strip() != head


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"weight_decay": 0.3}, "weight_decay 0.05, params.yaml says 0.3"),
        ({"val_fraction": 0.3}, "val_fraction 0.2, params.yaml says 0.3"),
        ({"teacher__lr": 0.02}, "teacher.lr 0.002, params.yaml says 0.02"),
    ],
)
def test_a_row_has_the_same_shipped_settings_with_every_seed(change: dict[str, Any], told: str, bench: Repository) -> None:
    """What the protocol says itself may change in params.yaml."""
    more = ROWS | {"more": ROWS["stacked"] | {"batch_size": 8}}
    accuracy(bench, "run", "--rows", "more", "--seeds", "0", rows=more)
    bench.set_params(batch_size=4, **change)
    bench.commit("other settings")
    for seed in ("1", "0", "7"):
        said = accuracy(bench, "run", "--rows", "more", "--seeds", seed, rows=more, check=False)
        assert f"more of taskA: seed 0 was trained with {told}; set it back, or say it in the protocol" in said
    assert [found["seed"] for found in of_row(bench, "more")] == [0]


def test_a_shipped_setting_without_effect_on_a_row_may_be_another(bench: Repository) -> None:
    """Of labels alone whatever teachers teach; of all what belongs to another schedule or target, and the run's name."""
    of_any = {"run": "x", "scheduler_step": 7, "scheduler_gamma": 0.3, "confidence_temperature": 0.5}
    of_teachers = {"target": "joint", "temperature": 3.0, "objective": "dist", "teacher__lr": 0.02}
    for row, idle in (("stacked", of_any), ("alone", of_any | of_teachers)):
        bench.set_params(**idle)
        bench.commit("other settings")
        assert f"| {row} |" in accuracy(bench, "run", "--rows", row)


def test_seeds_that_are_named_need_none_in_the_protocol(bench: Repository) -> None:
    told = accuracy(bench, "run", "--rows", "alone", "--seeds", "0", seeds={"taskB": [1]})
    assert "| alone |" in told


def test_an_entry_holds_the_settings_of_the_training_not_those_of_the_day_of_its_writing(bench: Repository) -> None:
    """As where a break came between the two."""
    (before,) = (found for found in of_row(bench, "alone") if found["seed"] == 0)
    known = {key: found for key, found in entries(bench).items() if found != before}
    (bench.root / RESULTS).write_text(json.dumps(known))
    bench.set_params(weight_decay=0.3)
    bench.commit("another setting")
    said = accuracy(bench, "run", "--rows", "alone", "--seeds", "0", check=False)
    assert "alone of taskA: seed 1 was trained with weight_decay 0.05, params.yaml says 0.3" in said
    (bench.root / RESULTS).write_text(json.dumps({key: found for key, found in known.items() if found.get("row") != "alone"}))
    accuracy(bench, "run", "--rows", "alone", "--seeds", "0")
    assert [found["shipped"]["weight_decay"] for found in of_row(bench, "alone")] == [0.05]


@pytest.mark.parametrize("sees_theirs", [False, True])
def test_teachers_may_learn_from_a_part_of_the_images_that_the_student_sees_or_does_not(sees_theirs: bool, bench: Repository) -> None:
    rows = {"apart": ROWS["stacked"]}
    apart: Any = {"teachers_share": 0.25} | ({"student_sees_the_teachers": True} if sees_theirs else {})
    accuracy(bench, "run", "--seeds", "0", rows=rows, **apart)
    (found,) = of_row(bench, "apart")
    assert found["seed"] == 0
    (place,) = (place.parent for place in (bench.root / ".amalgam/accuracy").glob("*/seed0/prepared/taskA/teachers"))
    theirs, others = PreparedSplit.read(place / "teachers"), PreparedSplit.read(place / "trainval")
    assert found["training_images"] == (theirs if sees_theirs else others).content
    learnt_from = {len(split.training_rows) / 4: {split.names[row] for row in split.training_rows} for split in (theirs, others)}
    assert [*learnt_from] == [2, 6], "of eight a class"
    assert learnt_from[2].isdisjoint(learnt_from[6])
    label_sets = LabelSets.read(place / "teachers")
    for name in label_sets.teachers:
        manifest = json.loads((place.parents[1] / "models" / "taskA" / name / "manifest.json").read_text())
        assert manifest["images"] == OwnImages.of(name, label_sets, theirs).content


def test_what_was_run_is_not_run_again(bench: Repository) -> None:
    before = entries(bench)
    shutil.rmtree(bench.root / ".amalgam/accuracy")
    told = accuracy(bench, "run")
    assert "validation" not in told.partition("| row |")[0]
    assert entries(bench) == before


def test_teachers_without_a_student_are_measured_later_too(bench: Repository) -> None:
    whole = entries(bench)
    (bench.root / RESULTS).write_text(
        json.dumps({key: {k: v for k, v in found.items() if k != "teachers right"} for key, found in whole.items()})
    )
    assert "combined" not in accuracy(bench, "table")
    assert "| *teachers, combined as for stacked* |" in accuracy(bench, "combine")
    assert entries(bench) == whole


def test_the_same_images_are_known_again_when_they_were_copied(bench: Repository) -> None:
    """So are the teachers that learnt from them."""
    for path in (bench.root / "images", *(bench.root / "images").rglob("*")):
        os.utime(path, (1, 1))
    accuracy(bench, "run", "--rows", "more", "--seeds", "0", rows=ROWS | {"more": {"target": "mean"}})
    assert len(of_row(bench, "more")) == 1
    assert len([place for place in (bench.root / ".amalgam/accuracy").iterdir() if place.is_dir()]) == 1


def test_results_of_other_images_are_not_taken_for_these(bench: Repository) -> None:
    shutil.rmtree(bench.root / "images")
    write_images(bench.root / "images", {"train": 10, "test": 4}, seed=1)
    assert "alone of taskA, seed 0, was trained or tested on other images than" in accuracy(bench, "run", check=False)


def test_a_new_row_is_not_tested_on_other_images_than_those_that_it_is_compared_with(bench: Repository) -> None:
    shutil.rmtree(bench.root / "images" / "test")
    write_images(bench.root / "images", {"test": 4}, seed=1)
    more = ROWS | {"more": {"alpha": 0, "batch_size": 8}}
    said = accuracy(bench, "run", "--rows", "more", "--seeds", "0", check=False, rows=more)
    assert "more of taskA, seed 0, would be compared with rows that were tested on other images than" in said
    assert of_row(bench, "more") == []


def test_nothing_made_by_other_settings_of_images_teachers_or_views_is_taken(bench: Repository) -> None:
    def places() -> int:
        return len([place for place in (bench.root / ".amalgam/accuracy").iterdir() if place.is_dir()])

    changes: list[dict[str, Any]] = [{"folder__augmentation": {"crop": 2, "flip": True}}, {"val_fraction": 0.3}, {"teacher__lr": 0.02}]
    for number, change in enumerate(changes, start=2):
        bench.set_params(**change)
        bench.commit("other settings")
        accuracy(bench, "run", "--rows", "more", "--seeds", "0", rows=ROWS | {"more": {"alpha": 0, "batch_size": number}})
        assert places() == number


def test_other_training_images_alone_are_refused_too(bench: Repository) -> None:
    shutil.rmtree(bench.root / "images" / "train")
    write_images(bench.root / "images", {"train": 10}, seed=1)
    for command in ("run", "tune"):
        assert "alone of taskA, seed 0, was trained or tested on other images than" in accuracy(bench, command, check=False)


def test_a_student_starts_from_the_file_of_weights_that_the_results_know(bench: Repository) -> None:
    weights, network = bench.root / "start.safetensors", "timm/test_efficientnet"
    given = {"given": {"alpha": 0, "student_model": network, "pretrained": True, "student_weights": weights.name}}
    save_weights(build_network(network, 4).state_dict(), weights)
    accuracy(bench, "run", "--seeds", "0", rows=given)
    assert [found["student_weights_sha256"] for found in of_row(bench, "given")] == [sha256_of_file(weights)]
    save_weights(build_network(network, 5).state_dict(), weights)
    said = accuracy(bench, "run", "--seeds", "0", rows=given, check=False)
    assert "given of taskA, seed 0, started from another start.safetensors than is here now" in said
    other = given | {"other": given["given"] | {"batch_size": 8}}
    said = accuracy(bench, "run", "--rows", "other", "--seeds", "1", rows=other, check=False)
    assert "given of taskA, seed 0, started from another start.safetensors than is here now" in said
    weights.unlink()
    accuracy(bench, "run", "--seeds", "0", rows=given)


def test_other_teachers_have_an_entry_of_their_own(tmp_path: Path) -> None:
    def key(teacher: str) -> str:
        (tmp_path / "protocol.yaml").write_text(f"teacher: {{{teacher}}}")
        return Protocol(tmp_path / "protocol.yaml").teachers_key("taskA", 0)

    assert key("student_model: ResNet18, lr: 0.1") == "teachers taskA seed 0, lr 0.1, student_model ResNet18"
    assert key("num_epochs: 40") == "teachers taskA seed 0, num_epochs 40"
    shipped = load_params(ROOT / "params.yaml").teacher
    assert f", lr {shipped.lr:g}, mixup {shipped.mixup:g}, num_epochs {shipped.num_epochs}, " in key("")


def test_tasks_may_have_seeds_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "protocol.yaml").write_text("seeds: {taskA: [1, 2], taskB: [3]}")
    (tmp_path / "alike.yaml").write_text("seeds: [0, 1]")
    protocol, alike = Protocol(tmp_path / "protocol.yaml"), Protocol(tmp_path / "alike.yaml")
    assert [protocol.seeds("taskA"), protocol.seeds("taskB"), alike.seeds("taskA"), alike.seeds("taskB")] == [[1, 2], [3], [0, 1], [0, 1]]
    with pytest.raises(UserError, match=r"protocol\.yaml names no seeds for taskC"):
        protocol.seeds("taskC")


def test_weights_lie_in_the_repository_wherever_the_command_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_params(ROOT / "params.yaml").student("taskA").model_copy(update={"student_weights": "lite0.safetensors"})
    assert architecture(settings).weights == ROOT / "lite0.safetensors"


# Trains a row's first seed, and is killed once its second epoch is kept.
BREAK_OFF = """
import os, signal
from amalgam.checkpoint import Checkpoint
from amalgam.provenance import configure_execution
from pathlib import Path
from benchmarks.protocol import Protocol
from benchmarks.rows import train
keep = Checkpoint.keep
def keep_and_die(own, snapshot):
    keep(own, snapshot)
    if len(snapshot["history"]) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
Checkpoint.keep = keep_and_die
configure_execution()
protocol = Protocol(Path("protocol.yaml"), Path("images"))
(job,) = protocol.jobs("taskA", protocol.rows, [0])
train(job)
"""


@pytest.mark.parametrize("row", ["alone", "stacked"])
def test_a_training_that_was_broken_off_goes_on_and_ends_as_one_that_was_not(row: str, bench: Repository) -> None:
    rows = {"long": ROWS[row] | {"num_epochs": 3}}
    (bench.root / "protocol.yaml").write_text(yaml.safe_dump(PROTOCOL | {"rows": rows}))
    died = bench.run("python", "-c", BREAK_OFF, check=False, DVC_ROOT=str(bench.root), PYTHONPATH="src:.")
    assert died.returncode == -signal.SIGKILL
    assert of_row(bench, "long") == []
    assert "goes on after epoch 2 of 3" in accuracy(bench, "run", "--seeds", "0", rows=rows)
    assert list((bench.root / ".amalgam/checkpoints").glob("*/")) == []
    resumed = outcome(bench)
    assert "goes on" not in accuracy(bench, "run", "--seeds", "0", rows=rows)
    assert outcome(bench) == resumed


def outcome(repository: Repository) -> tuple[dict[str, Any], str]:
    """What row long came to, times aside, and its weights' sha256; all of it is removed."""
    known = entries(repository)
    ((key, found),) = ((key, found) for key, found in known.items() if found.get("row") == "long")
    (folder,) = (repository.root / ".amalgam/accuracy").glob(f"*/runs/{key}")
    weights = sha256_of_file(folder / "best.safetensors")
    shutil.rmtree(folder)
    (repository.root / RESULTS).write_text(json.dumps({other: entry for other, entry in known.items() if other != key}))
    return {name: value for name, value in found.items() if name not in ("seconds", "date")}, weights


def test_teachers_of_other_settings_are_not_taken_for_these(bench: Repository) -> None:
    before = entries(bench)
    accuracy(bench, "run", "--rows", "stacked", "--seeds", "0", teacher={"num_epochs": 2})
    assert before.items() <= entries(bench).items()
    assert "teachers taskA seed 0, num_epochs 2" in entries(bench)
    assert [found["seed"] for found in of_row(bench, "stacked")].count(0) == 2


def test_an_experiments_settings_are_not_taken_for_the_shipped_ones(bench: Repository) -> None:
    bench.set_params(objective="dist")
    assert "params.yaml holds settings that are not committed; set them back" in accuracy(bench, "run", check=False)


def test_several_protocols_are_run_together_and_what_stands_in_two_once(bench: Repository) -> None:
    """The second one's teachers learn for two epochs; its student of labels alone is the first one's."""
    new = PROTOCOL | {"seeds": [2]}
    (bench.root / "protocol.2.yaml").write_text(
        yaml.safe_dump(new | {"teacher": {"num_epochs": 2}, "rows": ROWS | {"other": {"alpha": 0.7}}})
    )
    second = ("--protocol", "protocol.2.yaml")
    told = accuracy(bench, "run", *second, "--jobs", "2", "--rows", "alone", "other", seeds=[2])
    assert [line for line in told.splitlines() if line.endswith(":")] == ["protocol.yaml:", "protocol.2.yaml:"]
    assert (told.count("| alone |"), told.count("| other |"), told.count("| stacked |")) == (2, 1, 0)
    assert told.count("taskA alone ") == 1, "one training"
    assert "no row odd; it has alone, stacked, other" in accuracy(bench, "run", *second, "--rows", "odd", seeds=[2], check=False)
    accuracy(bench, "tune", *second, "--rows", "stacked", seeds=[2], rows={"alone": {"alpha": 0}})
    assert not (bench.root / "protocol.chosen.yaml").exists(), "nothing of it was asked for"


def test_each_of_several_protocols_is_refused_what_it_would_be_alone(bench: Repository) -> None:
    """Whatever the other one calls so, and whatever its seeds: with seed 7 the first one's row would be refused."""
    second, own = ("--protocol", "protocol.2.yaml"), {"stacked": ROWS["stacked"], "own": {"alpha": 0, "batch_size": 8}}
    (bench.root / "protocol.2.yaml").write_text(yaml.safe_dump(PROTOCOL | {"seeds": [7], "rows": own}))
    (job,) = Protocol(bench.root / "protocol.yaml").jobs("taskA", {"alone": ROWS["alone"]}, [7])
    (bench.root / RESULTS).write_text(json.dumps({job.key: {"row": "alone", "shipped": {"weight_decay": 9.0}}}))
    told = accuracy(bench, "run", *second, "--rows", "alone", "own", seeds=[0])
    assert "| alone |" in told
    assert "| own |" in told
    odd = {"stacked": {"target": "mean", "standardize_logits": True}}
    assert "protocol.yaml, stacked, taskA: standardize_logits" in accuracy(bench, "run", *second, rows=odd, check=False)


def test_a_protocol_is_committed_before_the_test_images_are_looked_at(bench: Repository) -> None:
    words = ("python", "benchmarks/accuracy.py", "run", "images", "--task", "A", "--protocol", "protocol.yaml")
    bench.edit("protocol.yaml", lambda text: text + "\n")
    assert "protocol.yaml is to be committed before" in bench.run(*words, check=False, PYTHONPATH="src:.").stderr
    bench.run("git", "checkout", "protocol.yaml")
    (bench.root / "protocol.chosen.yaml").write_text("{}")
    assert "protocol.chosen.yaml is to be committed before" in bench.run(*words, check=False, PYTHONPATH="src:.").stderr


def test_settings_that_the_pipeline_would_refuse_are_refused(bench: Repository) -> None:
    rows = {"odd": {"target": "mean", "standardize_logits": True}}
    for command in ("run", "tune"):
        assert "protocol.yaml, odd, taskA: standardize_logits brings logits" in accuracy(bench, command, check=False, rows=rows)


@pytest.mark.parametrize("name", coverage.PROTOCOLS)
@pytest.mark.parametrize("task", coverage.TASKS)
def test_no_row_contradicts_itself(name: str, task: str) -> None:
    protocol = Protocol.named(name)
    refuse_contradictions(protocol.jobs(task, protocol.rows, protocol.seeds(task)[:1]))


def test_a_grid_of_one_point_that_sets_nothing_has_a_table(bench: Repository) -> None:
    rows = {"alone": {"alpha": 0, "lr": 0.003}}
    accuracy(bench, "run", "--seeds", "0", rows=rows, grid=[{}])
    assert re.search(r"^\| alone \| [\d.]+ \|", accuracy(bench, "table", "--seeds", "0", rows=rows, grid=[{}]), re.MULTILINE)


def test_a_row_of_few_labels_is_tuned_by_these_alone(bench: Repository) -> None:
    grid = [{"lr": 1e-5}, {"lr": 0.003}]
    accuracy(bench, "tune", "--rows", "stacked", grid=grid)
    assert {found["seed"] for found in of_row(bench, "stacked") if found["settings"].get("lr") == 1e-5} == {0}, "the first seed alone"
    tried = {found["settings"]["lr"]: key for key, found in entries(bench).items() if found.get("row") == "stacked" and found["seed"] == 0}
    known = entries(bench)
    for rate, score in ((1e-5, 90.0), (0.003, 10.0)):  # as if the hidden labels said the opposite
        known[tried[rate]] |= {"validation": 100 - score, "validation score": score}
    (bench.root / RESULTS).write_text(json.dumps(known))
    accuracy(bench, "tune", "--rows", "stacked", grid=grid)
    assert yaml.safe_load((bench.root / "protocol.chosen.yaml").read_text())["taskA"] == {"stacked": {"lr": 1e-5}}


def test_a_rate_at_which_training_diverges_loses_and_ends_nothing_else(bench: Repository) -> None:
    grid = [{"lr": 10.0}, {"lr": 0.003}]
    steep: Any = {"common": COMMON | {"weight_decay": 10, "batch_size": 4, "num_epochs": 4}, "seeds": [0]}
    accuracy(bench, "tune", "--jobs", "2", "--rows", "alone", grid=grid, **steep)
    assert yaml.safe_load((bench.root / "protocol.chosen.yaml").read_text())["taskA"] == {"alone": {"lr": 0.003}}
    (diverged,) = (found for found in entries(bench).values() if found.get("settings", {}).get("lr") == 10)
    assert "no longer finite" in diverged["diverged"]
    rows = {"alone": {"alpha": 0}, "calm": {"alpha": 0, "clip_norm": 1e-6, "weight_decay": 0}, "last": {"alpha": 0, "weight_decay": 9}}
    said = accuracy(bench, "run", check=False, grid=grid[:1], rows=rows, **steep)
    for row in ("alone", "last"):
        assert re.search(rf"{row}, seed 0: the (validation loss is|loss is|weights are) no longer finite .*; it has no result", said)
    assert [found["images"] for found in of_row(bench, "calm")] == [16]
    assert of_row(bench, "last") == []


def test_tuning_takes_no_seeds(bench: Repository) -> None:
    assert "tune is of the protocol's first seed alone" in accuracy(bench, "tune", "--seeds", "1", check=False)
