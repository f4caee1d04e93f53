"""The graphs of a project: read its `langgraph.json`, import what it names, open a graph for a run.

`config` and `envfile` read and judge, `importing` runs the project's code within a deadline,
`graph_set` gives compiled graphs with our checkpointer, `shape` says what a graph consists of."""
