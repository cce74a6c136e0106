"""Commands of `nanbeige` beyond plan and run, one module per concern; each has `register(app)`."""
