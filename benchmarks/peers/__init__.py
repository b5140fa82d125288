"""Peers side by side: whole recoveries by the tools that people use, on the same victims, beside ours.

victims.py      what is attacked: network, gradients, starts
watch.py        when a search comes to a success
contender.py    what a contender is told and what it reports
dlg.py, inverting_gradients.py, breaching_package.py, ours.py      the contenders, a tool a file
contenders.py   which of them there are
workers.py      their runs on all cores
measure.py      in what turns they run, and on which victims
figures.py      what follows from the runs
report.py       table and plot from the result file

python -m benchmarks.peers --data FOLDER
"""
