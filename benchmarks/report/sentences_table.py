"""The section on sentences that are read off, and batches of them."""

from benchmarks.report.markdown import machine_line, prose, read, table


def sentences_section() -> str:
    found = read("sentences")
    if not found:
        return ""
    rows = []
    for line in found["lines"]:
        size = line.get("batch size", 1)
        rows.append(
            [
                f"width {line['width']}, "
                + ("untrained" if line["accuracy"] is None else f"accuracy {line['accuracy']:.3f}"),
                str(size),
                f"{line['whole']} of {line['sentences']}",
                str(line["ROUGE-L"] if size > 1 else line["tokens right"]),
                f"{line['certified' if size == 1 else 'batches certified']} of {line['sentences'] // size}",
                str(line["certified and wrong"]),
                f"{line['cpu seconds']:.0f} s",
                "; ".join(line.get("reasons", ())),
            ]
        )
    columns = ("network", "B", "whole", "ROUGE-L", "certified", "of these wrong", "CPU", "what is missing")
    return "\n".join(
        [
            "## Sentences that are read off",
            "",
            prose(
                """
                `python -m benchmarks.recovery.sentences --data DATA`. Encoders of two layers,
                untrained or trained on 512 of CoLA's sentences of 16 tokens until 99 % or for 300 epochs;
                victims are others. B = 1: `recover_text`, which searched none of them; more:
                `recover_sentences`, whose assumption is fewer different tokens than the width.
                For one sentence the share of right tokens stands in place of ROUGE-L.
                """
            ),
            "",
            table(columns, rows),
            "",
            machine_line(found),
        ]
    )
