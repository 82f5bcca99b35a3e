"""What training raises when it cannot go on with what it was given; the message says what arrived and what to do.

TrainingError                  the command line shows any of these as one message, with exit code 2
├── ConfigError                params.toml or --set
├── CatalogueError             candidates.toml, or a price list
├── OutcomeError               a log, or judgements on it
│   └── HubError               a public data set
├── ObjectStoreError           an object store, or a URL of one
│   └── ThereAlreadyError      an object that was to be new
├── GraderError                the LLM that grades answers
├── PlanError                  a plan of what to buy
├── ReplayError                buying the answers of a plan
├── EncoderError               the encoder's source
├── SplitError                 parting the requests
├── CoreError                  a large log's sample, of which a part would be empty
├── PrepareError               what learning needs
├── CostError                  prices and tokens
├── NotTrainableError          too few outcomes for an estimator
├── ParityError                the exported head differs from the trained one
├── ChoiceError                what an earlier run selected, and does not fit
├── KeptError                  what an earlier run kept, to add new rows to
├── EvidenceError              what answers are to be bought for
├── ProbeError                 which requests to put to a new candidate
├── ExtendError                adding a candidate to a bundle
├── PromotionError             making a bundle the champion
├── WhatIfError                what would be otherwise
├── NothingToDrawError         a chart of what is not known
├── NotOpenedError             what a notebook was not given
├── MemoryTooSmallError        what is learned from, and the memory for it
├── DiskTooSmallError          room to import a log that is trained on
├── NoRoomError                a disk that is full
├── NotOwnError                what others may have written
├── ClusterError               machines to work on
├── LargeLogError              an option that would hold a large log in memory
└── NotComparableError         two bundles that the test requests cannot compare
"""

from __future__ import annotations

import errno

# What the system says where a disk, a quota or the longest file that is allowed is full.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class TrainingError(ValueError):
    """Something that a user can mend; every error class of training is one."""


class NoRoomError(TrainingError):
    """A disk that is full, or a limit on it; the message says where."""
