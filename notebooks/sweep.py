"""A sweep as DataFrames, and the report's main figure: marimo edit notebooks/sweep.py (or, without
looking: python notebooks/sweep.py).
"""

import marimo

app = marimo.App(width="medium", app_title="A sweep")


@app.cell
def _():
    from contextlib import suppress
    from pathlib import Path

    import marimo as mo
    import pandas as pd

    from mosweep.reports.content import Content
    from mosweep.reports.figures import draw
    from mosweep.reports.tables import effects_table, items_table, trials_table
    from mosweep.sweep.folder import find_sweep

    return (
        Content,
        Path,
        draw,
        effects_table,
        find_sweep,
        items_table,
        mo,
        pd,
        suppress,
        trials_table,
    )


@app.cell
def _(mo):
    mo.md("""
    # A sweep, read in a notebook

    Everything here comes from the sweep's records, by the functions that write the report
    (`mosweep analyze`). Choose a sweep, or start the notebook with one:
    `marimo edit notebooks/sweep.py -- --sweep NAME`. If there is none yet:
    `mosweep -m backend=dummy lora.rank=4,64 seed=0,1,2 experiment.name=first`.
    """)
    return


@app.cell
def _(Path, mo, suppress):
    found = sorted(
        Path("multirun").glob("**/experiment.yaml"),
        key=lambda path: path.stat().st_mtime,
        reverse=True,
    )
    folders = [str(path.parent) for path in found]
    asked = None
    with suppress(Exception):  # Jupyter has no arguments to ask for
        asked = mo.cli_args().get("sweep")
    chooser = mo.ui.dropdown(folders, value=folders[0] if folders else None, label="sweep")
    chooser if asked is None else mo.md(f"sweep: {asked}")
    return asked, chooser


@app.cell
def _(Content, asked, chooser, find_sweep):
    content = Content(find_sweep(asked or chooser.value))
    return (content,)


@app.cell
def _(mo):
    mo.md("""
    ## Trials

    A row per trial: its factors, what was measured, and the difference from the untouched base
    model.
    """)
    return


@app.cell
def _(content, trials_table):
    trials = trials_table(content)
    trials
    return (trials,)


@app.cell
def _(mo):
    mo.md("""
    ## Effects

    A row per comparison and, below it, one for each combination of the other factors. The figure
    is the report's.
    """)
    return


@app.cell
def _(content, effects_table):
    effects = effects_table(content)
    effects
    return (effects,)


@app.cell
def _(content, draw, mo):
    forest = draw(content).get("effects")
    mo.md("No two groups of trials to compare.") if forest is None else mo.vstack(
        [mo.Html(forest.svg), mo.md(forest.caption)]
    )
    return (forest,)


@app.cell
def _(effects, mo):
    if mo.app_meta().mode == "script":
        shown = effects[["comparison", "block", "metric", "estimate", "low", "high", "verdict"]]
        print(shown.to_csv(index=False), end="")
    return


@app.cell
def _(mo):
    mo.md("""
    ## Items

    A row per trial, item and scorer. The items on which the trials differ the most:
    """)
    return


@app.cell
def _(content, items_table, pd):
    items = items_table(content)
    by_item: pd.DataFrame = items.groupby(["task", "scorer", "item"])["score"].agg(
        ["mean", "std", "count"]
    )
    by_item.sort_values("std", ascending=False).head(10)
    return (items,)


if __name__ == "__main__":
    app.run()
