"""Training: logs in, a bundle out. The stages, in order, and the file of each:

    traffic/      one importer per kind of log, and the simulator
    outcomes      the outcome table: validation and the account of skipped rows
    matrix        outcomes as (request, candidate) matrices
    label         which answers were acceptable
    split         training, calibration and test parts, whole conversations each
    encoders, embed    the exported encoder, and cached embeddings made with it
    costs         tokens, cost and latency expected of each candidate
    estimators/, fit   estimators of P(acceptable), scored out of fold, one selected
    calibrate     probabilities that mean what they say
    export        one head.onnx, checked against training
    operating     operating points, chosen on the calibration part
    evaluate      the served router against baselines, on the test part
    report, tracking   what a person reads, and MLflow

`pipeline` learns, `train` runs everything into a bundle, `cli` is the command line. Training imports serving, never
the other way round.
"""
