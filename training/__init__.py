"""Training: a log in, a bundle out. The rooms, in the order of a log's way:

    logs                      logs of any kind as one outcome table, every row used or skipped with a reason
    quality, prices, inspect  judgements from elsewhere; what a token costs; what a log can support
    dataset                   the table as matrices, labels, parts, and what a head sees of each request
    learn, certify, evaluate  on the training, the calibration and the test part; `measure` has the statistics
    publish                   the report, the promotion, the entry in MLflow
    engine                    where the parts of a stage run: in threads here, or on a Dask cluster

`run` calls them in order with `config`'s parameters, `cli` is the command line, `simulation` a log to try it on. Training
imports serving.bundle and serving.decide alone; serving never imports training.
"""
