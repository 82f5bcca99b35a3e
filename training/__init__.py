"""Training: logs in, a bundle out. The way of the data, a room each:

    logs        logs of any kind as one outcome table, every row used or skipped with a reason
    quality, prices, inspect    judgements from elsewhere; what a token costs; what a log can support
    dataset     outcomes as (request, candidate) matrices, labels, parts, embeddings
    learn       estimators of P(acceptable), costs, calibration, one head.onnx
    certify     operating points, and what they hold to
    evaluate    the served router against baselines
    publish     the report, the promotion gate, MLflow
    run, cli    all of it in order, and the command line

`measure` is statistics, `simulation` a log to try it on. Training imports serving.bundle and serving.decide alone; serving
never imports training.
"""
