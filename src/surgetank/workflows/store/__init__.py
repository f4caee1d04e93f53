"""LangGraph's store on PostgreSQL: items in namespaces, for graphs and for clients.

`namespaces` and `scope` say where an item is and who reaches it, `values` how it is kept,
`filters` and `index` how it is found, `plan` what a batch is about to do, `store` does it."""
