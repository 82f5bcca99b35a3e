"""Words and asks of the simulated traffic. Only data: simulated_prompts.py turns it into requests.

A ladder lists the things a request of one workflow can ask for, easiest first: (difficulty in [0, 1], wordings).
`{slot}` stands for a draw from SLOTS (or for a number); several wordings per rung keep difficulty from being one
word.
"""

from __future__ import annotations

Rung = tuple[float, tuple[str, ...]]

SLOTS: dict[str, tuple[str, ...]] = {
    "table": (
        "orders",
        "invoices",
        "shipments",
        "sessions",
        "payments",
        "subscriptions",
        "tickets",
        "bookings",
        "transactions",
        "deliveries",
        "refunds",
        "claims",
        "visits",
        "page_views",
        "trades",
        "readings",
    ),
    "other": (
        "customers",
        "products",
        "stores",
        "employees",
        "suppliers",
        "regions",
        "campaigns",
        "accounts",
        "warehouses",
        "drivers",
        "plans",
        "devices",
        "patients",
        "courses",
        "vendors",
        "teams",
    ),
    "third": (
        "categories",
        "currencies",
        "contracts",
        "channels",
        "price_lists",
        "departments",
        "promotions",
        "routes",
        "tags",
        "countries",
        "calendars",
        "audit_log",
    ),
    "column": (
        "amount",
        "total_price",
        "quantity",
        "duration_s",
        "discount",
        "weight_kg",
        "score",
        "margin",
        "tax",
        "balance",
        "rating",
        "distance_km",
        "units",
        "fee",
    ),
    "city": (
        "Lisbon",
        "Leeds",
        "Osaka",
        "Lyon",
        "Porto Alegre",
        "Pune",
        "Malmö",
        "Denver",
        "Nairobi",
        "Gdańsk",
        "Utrecht",
        "Valparaíso",
        "Cork",
        "Tampere",
        "Graz",
        "Halifax",
    ),
    "person": (
        "Ana",
        "Tomás",
        "Priya",
        "Yuki",
        "Lars",
        "Fatima",
        "Chidi",
        "Elena",
        "Marek",
        "Sofia",
        "Omar",
        "Grace",
        "Hugo",
        "Mei",
        "Kwame",
        "Ingrid",
    ),
    "company": (
        "Norvik Foods",
        "Talo Bikes",
        "Brightwater Labs",
        "Castell Freight",
        "Hollin & Rowe",
        "Ostra Solar",
        "Pinecrest Clinics",
        "Quanta Tools",
        "Riverside Books",
        "Saffron Travel",
        "Umbra Audio",
        "Velo Post",
    ),
    "item": (
        "headset",
        "standing desk",
        "coffee grinder",
        "road bike",
        "router",
        "winter jacket",
        "e-reader",
        "blender",
        "office chair",
        "camera lens",
        "tent",
        "smart thermostat",
        "keyboard",
        "printer",
    ),
    "money": ("$12.40", "€49.99", "£230", "$1,284.15", "€18", "$79", "£6.75", "$340.00", "€2,110.50", "£95.20"),
    "month": ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October"),
    "plan": ("Basic", "Plus", "Family", "Pro", "Team", "Business", "Student", "Enterprise"),
    "topic": (
        "the tides",
        "a night train",
        "an empty lighthouse",
        "grandmother's kitchen",
        "learning to swim",
        "the last payphone",
        "a stubborn goat",
        "city rain",
        "moving house",
        "an old violin",
        "a lost glove",
        "the first snow",
        "a beekeeper",
        "a ferry crossing",
        "forgotten passwords",
        "autumn markets",
        "a broken clock",
        "two rival bakers",
        "a desert road",
        "the moon landing",
        "a school reunion",
        "growing tomatoes",
        "an untranslatable word",
        "a museum guard",
        "the smell of cedar",
    ),
    "mood": ("wistful", "playful", "dry", "tender", "ominous", "hopeful", "deadpan", "nostalgic", "lyrical", "warm"),
    "verb": ("load", "sync", "merge", "parse", "publish", "resolve", "fetch", "flush", "encode", "rotate", "schedule"),
    "noun": ("order", "session", "packet", "report", "token", "invoice", "frame", "cursor", "job", "batch", "record"),
    "audience": (
        "the board",
        "new hires",
        "a busy nurse",
        "a ten-year-old",
        "our investors",
        "the press office",
        "field engineers",
        "a judge",
        "union members",
        "the support team",
    ),
    "subject": (
        "the water board",
        "the orchard trial",
        "the tram extension",
        "the clinic merger",
        "the harbour fund",
        "the school census",
        "the battery pilot",
        "the archive project",
        "the wind survey",
        "the recall",
        "the licensing review",
        "the ferry timetable",
        "the soil study",
        "the housing ballot",
    ),
    "claim": (
        "raised its forecast",
        "missed its target",
        "opened a second site",
        "cut spending",
        "hired a new lead",
        "delayed the launch",
        "published revised figures",
        "withdrew the proposal",
        "passed inspection",
        "reported fewer accidents",
        "asked for more time",
        "settled the dispute",
        "changed supplier",
    ),
    "reason": (
        "after a dry spring",
        "because parts arrived late",
        "despite strong demand",
        "in line with the audit",
        "following the public hearing",
        "as energy prices fell",
        "under the new rules",
        "after two resignations",
        "while rents kept rising",
        "once the survey closed",
        "owing to a software fault",
    ),
    "job": (
        "nurse",
        "welder",
        "data analyst",
        "pastry chef",
        "civil engineer",
        "translator",
        "bus driver",
        "biologist",
    ),
}

LADDERS: dict[str, tuple[Rung, ...]] = {
    "sql": (
        (
            0.03,
            (
                "list every row of {table} from {city}",
                "show me all {table} with {column} above {n2}",
                "select the {table} created in {month}",
            ),
        ),
        (
            0.10,
            (
                "count the {table} per day",
                "how many {table} do we have in {month}?",
                "give the number of distinct {other} in {table}",
            ),
        ),
        (
            0.18,
            (
                "show the top {n1} {table} by {column}",
                "sort {table} by {column} descending, first {n1} only",
                "latest {n1} {table} for {person}",
            ),
        ),
        (
            0.27,
            (
                "average {column} by {other}, keeping only groups with more than {n2} {table}",
                "total {column} per month, having a sum over {n3}",
                "group {table} by {other} and sum {column}",
            ),
        ),
        (
            0.36,
            (
                "join {table} to {other} and show the name beside each {column}",
                "match {table} with {other} by id and list both",
                "inner join of {table} and {other} with {column}",
            ),
        ),
        (
            0.45,
            (
                "{other} without any {table} this year (anti join)",
                "left join {other} to {table}, treat nulls as zero",
                "which {other} never appear in {table}? use NOT EXISTS",
            ),
        ),
        (
            0.54,
            (
                "join {table}, {other} and {third} and pivot {column} by month",
                "three-table join over {table}, {other}, {third} with a correlated subquery for the maximum {column}",
                "compare {column} across {other} and {third} with conditional aggregation per quarter",
            ),
        ),
        (
            0.63,
            (
                "rank {table} within each of the {other} with a window function",
                "running total of {column} over time, partition by {other}",
                "use LAG to get the change in {column} between consecutive {table}",
            ),
        ),
        (
            0.72,
            (
                "with CTEs, cohort retention of {other} by first {table} month",
                "a {n1}-day rolling median of {column} per {other}, using window frames and a CTE",
                "chain common table expressions to attribute each of the {table} to the last of the {third}",
            ),
        ),
        (
            0.82,
            (
                "find gaps and islands in {table} per {other} and the longest streak",
                "sessionise {table} with a {n2}-minute timeout and compute percentiles of {column}",
                "deduplicate overlapping validity intervals of {third} and rebuild the history of {other}",
            ),
        ),
        (
            0.92,
            (
                "a recursive CTE that walks the {third} hierarchy, detects cycles and rolls {column} up every level",
                "rewrite this as an incremental merge with slowly changing dimensions type 2 and late-arriving {table}",
                "recursive bill of materials over {third}, with currency conversion as of each date and no cursors",
            ),
        ),
    ),
    "maths": (
        (0.02, ("What is {n2} + {n3}?", "Compute {n2} * {n1}.", "{n3} minus {n2} equals?", "Work out {n3} / {n1}.")),
        (
            0.10,
            (
                "What is {n2}% of {n3}?",
                "Round {n3}.{n2} to one decimal.",
                "Convert {n2} km to miles.",
                "A {item} costs {money}. How much do {n1} cost?",
            ),
        ),
        (
            0.20,
            (
                "Solve {n1}x + {n2} = {n3}.",
                "Find x if {n2} - {n1}x = {n2}.",
                "{person} walks {n1} km at 5 km/h and rests {n2} minutes. How long does it take?",
            ),
        ),
        (
            0.30,
            (
                "Solve the quadratic x^2 - {n2}x + {n1} = 0.",
                "Factorise {n1}x^2 + {n2}x - {n1}.",
                "Two taps fill a tank in {n1} and {n2} hours. How long do they need together?",
            ),
        ),
        (
            0.40,
            (
                "Solve the system {n1}x + 2y = {n2}, 3x - y = {n1}.",
                "A bag holds {n1} red and {n2} blue balls; two are drawn. What is the probability that both are red?",
                "Find the compound interest on {n3} at {n1}% over {n2} years, paid monthly.",
            ),
        ),
        (
            0.50,
            (
                "Differentiate x^{n1} * sin({n1}x) and simplify.",
                "Find the eigenvalues of [[{n1}, 2], [3, {n2}]].",
                "How many ways can {n2} people sit around a table if {n1} of them refuse to be neighbours?",
            ),
        ),
        (
            0.60,
            (
                "Integrate x^{n1} * exp(-{n1}x) from 0 to infinity.",
                "Find the expected number of rolls of a {n2}-sided die until every face has appeared.",
                "Evaluate the definite integral of ln(1 + {n1}x) / x on [0, 1].",
            ),
        ),
        (
            0.72,
            (
                "Solve y'' + {n1}y' + {n2}y = sin({n1}t) with y(0) = 0 and y'(0) = 1.",
                "Count the lattice paths from (0, 0) to ({n2}, {n2}) that stay below the diagonal and avoid ({n1}, "
                "{n1}).",
                "Find all integer solutions of x^2 - {n1}y^2 = 1 with x below {n3}, deriving the recurrence.",
            ),
        ),
        (
            0.84,
            (
                "Prove that n^{n1} - n is divisible by {n1} for every integer n whenever {n1} is prime.",
                "Show by induction that the sum of the first n cubes is a square, then generalise to {n1}th powers.",
                "Prove that every continuous function on [0, {n1}] is uniformly continuous, without compactness.",
            ),
        ),
        (
            0.95,
            (
                "Decide, with proof, whether a group of order {n3} can be simple, citing each Sylow argument you rely "
                "on.",
                "Olympiad: find all functions f with f(x + {n1}f(y)) = f(x) + {n1}y for real x, y; prove completeness.",
                "Derive a sharp upper bound for the chromatic number of the graph on {n3} integers and prove "
                "tightness.",
            ),
        ),
    ),
    "code-review": (
        (
            0.03,
            (
                "Is this name clear, or should I rename {verb}_{noun}?",
                "Quick check: I only renamed a variable.",
                "Any better name for {noun}?",
            ),
        ),
        (
            0.10,
            (
                "I fixed a typo in the docstring, ok to merge?",
                "Formatting only, please confirm.",
                "Just reordered the imports here.",
            ),
        ),
        (
            0.20,
            (
                "Does this need a default argument?",
                "Could this loop be a comprehension?",
                "Is the type hint on {noun} right?",
            ),
        ),
        (
            0.30,
            (
                "What happens when {noun} is None?",
                "Did I miss an empty {noun} here?",
                "Check the error handling around {verb}.",
            ),
        ),
        (
            0.40,
            (
                "Is pagination off by one at the last {noun}?",
                "Are timezones handled properly for each {noun}?",
                "Please look for edge cases when {noun} is negative or huge.",
            ),
        ),
        (
            0.50,
            (
                "Can user input reach the query? Check for injection.",
                "Is this token comparison safe (timing, CSRF)?",
                "Security review: secrets, path traversal, deserialisation of {noun}.",
            ),
        ),
        (
            0.60,
            (
                "Does the cache ever leak memory or serve a stale {noun}?",
                "Profile mentally: where is this quadratic, and can we stream each {noun}?",
                "Is the retry idempotent if {verb} fails half way?",
            ),
        ),
        (
            0.72,
            (
                "What if the task is cancelled while awaiting {verb}? Check cleanup.",
                "Is the transaction isolation enough for two concurrent {verb} calls?",
                "Review the asynchronous back-pressure: can {noun} queue without bound?",
            ),
        ),
        (
            0.84,
            (
                "Look for a race condition or deadlock between {verb} and shutdown.",
                "Two threads {verb} the same {noun}: is the lock order consistent everywhere?",
                "Is this double-checked locking correct, and can the mutex be poisoned?",
            ),
        ),
        (
            0.95,
            (
                "Audit the unsafe block: aliasing, lifetimes, and undefined behaviour when {noun} moves.",
                "Is the memory ordering of this lock-free {noun} queue correct on ARM? Argue acquire/release.",
                "Prove this hazard-pointer reclamation never frees a {noun} that a reader still holds (ABA).",
            ),
        ),
    ),
    "summarising": (
        (0.05, ("Summarise this.", "Give me the gist in a sentence.", "TL;DR please.", "Shorten this text.")),
        (0.15, ("Summarise in {n1} bullet points.", "List the main points.", "Condense to a short paragraph.")),
        (
            0.27,
            (
                "Summarise for {audience}.",
                "Write a headline and a two-line abstract for {audience}.",
                "Pull out the decisions and who owns them.",
            ),
        ),
        (
            0.40,
            (
                "Summarise in exactly {n2} words.",
                "Keep every figure and date, drop the rest.",
                "Write minutes: decisions, actions, deadlines, open questions.",
            ),
        ),
        (
            0.55,
            (
                "Contrast the positions of each party and say where they disagree.",
                "Separate what is stated from what is merely implied.",
                "Order the events by when they happened.",
            ),
        ),
        (
            0.70,
            (
                "Point out contradictions between passages, quoting both sides.",
                "Cite the sentence number behind every statement you make.",
                "Explain the causal chain and mark each weak link.",
            ),
        ),
        (
            0.85,
            (
                "Reconcile the conflicting figures, weigh how reliable each source is, and state what cannot be known.",
                "Write it so that no claim exceeds its evidence, attributing each to its source, at reading age "
                "twelve.",
                "Build a nested outline, keep hedges and negations intact, and flag every unsupported inference.",
            ),
        ),
    ),
    "creative-writing": (
        (
            0.04,
            (
                "Write a short birthday greeting about {topic}.",
                "A one-line caption on {topic}.",
                "Give me a slogan for {company}.",
            ),
        ),
        (
            0.13,
            (
                "Write a product blurb for a {item}.",
                "A friendly invitation themed on {topic}.",
                "Five names for a cafe inspired by {topic}.",
            ),
        ),
        (
            0.25,
            (
                "A {mood} paragraph about {topic}.",
                "Open a short story with {topic}.",
                "Describe {city} at dawn, {mood} in tone.",
            ),
        ),
        (
            0.36,
            (
                "A short story on {topic} with a twist.",
                "A free-verse poem on {topic}.",
                "A dialogue between {person} and {person} about {topic}.",
            ),
        ),
        (
            0.48,
            (
                "A limerick about {topic} that scans.",
                "Three haiku on {topic}, five-seven-five each.",
                "A {mood} monologue that never names {topic}.",
            ),
        ),
        (
            0.60,
            (
                "A ballad in common metre on {topic}.",
                "A Shakespearean sonnet on {topic} in iambic pentameter.",
                "Retell {topic} as a pastiche of Chekhov, with an unreliable narrator.",
            ),
        ),
        (
            0.72,
            (
                "A villanelle on {topic} with both refrains.",
                "Terza rima about {topic}, at least seven tercets.",
                "Rondeau on {topic}, refrain from the first half-line.",
            ),
        ),
        (
            0.84,
            (
                "A lipogram on {topic} without the letter e.",
                "A double acrostic on {topic} spelling {person} twice.",
                "A pantoum on {topic} where every repeated line changes meaning.",
            ),
        ),
        (
            0.95,
            (
                "A sestina about {topic}, all six end-words and the envoi correct.",
                "A crown of three sonnets on {topic}, the last line of each opening the next.",
                "A palindromic poem on {topic} that reads line by line the same backwards.",
            ),
        ),
    ),
    "support-triage": (
        (
            0.03,
            (
                "Where do I find my invoice?",
                "How do I reset my password?",
                "What are your opening hours?",
                "How can I change my email address?",
            ),
        ),
        (
            0.12,
            (
                "Do you deliver to {city}?",
                "Can I return the {item} I bought in {month}?",
                "Is the {plan} plan available monthly?",
            ),
        ),
        (
            0.22,
            (
                "My {item} has not arrived, order {n3}{n3}.",
                "The {item} arrived in the wrong colour.",
                "I cannot log in since {month}.",
            ),
        ),
        (
            0.34,
            (
                "The {item} broke after {n2} days, I want a replacement under warranty.",
                "I was moved to the {plan} plan without asking.",
                "The discount code did not apply to my {item}.",
            ),
        ),
        (
            0.46,
            (
                "I was charged {money} twice for the same {item} and only one was refunded.",
                "You cancelled my {plan} subscription but kept billing {money}.",
                "The refund of {money} went to a card that I closed in {month}.",
            ),
        ),
        (
            0.58,
            (
                "The agent promised {money} credit, the next one denied it, and the chat log is gone.",
                "We have {n1} seats on {plan}, were invoiced for {n2}, and VAT is wrong on both lines.",
                "My parcel was split, half was returned by customs and I paid duty on all of it.",
            ),
        ),
        (
            0.72,
            (
                "My bank opened a chargeback for {money} while your own refund was pending, and now I owe both.",
                "Someone ordered a {item} from my account to {city}; the police want logs and you closed my case.",
                "After the merger with {company} our contract has two conflicting renewal dates and penalties.",
            ),
        ),
        (
            0.86,
            (
                "I dispute the {money} under the cooling-off rules, you cite clause {n1}, yet the terms in force when "
                "I "
                "signed in {month} say the opposite.",
                "Data of {n2} patients was exported by mistake: which of you is the controller, and who notifies whom?",
                "Our accountant found {money} of credit notes that cancel invoices of another entity in our group; "
                "reverse them without changing the closed quarter.",
            ),
        ),
    ),
}

FOLLOW_UPS: dict[str, tuple[Rung, ...]] = {
    "support-triage": (
        (0.04, ("Thanks, that worked.", "Ok, and where is that page?", "Great, can you send me the link?")),
        (0.30, ("I tried that and the {item} still does not show.", "It now says order {n3} does not exist.")),
        (
            0.55,
            (
                "That is not what the last agent told me: they confirmed {money} in writing.",
                "You refunded {money}, but the fee and the tax are still missing.",
            ),
        ),
        (
            0.85,
            (
                "My lawyer says the clause you quote does not apply to contracts signed before {month}; answer that.",
                "Then explain why {money} was captured twice, reversed once, and reported to the credit agency.",
            ),
        ),
    ),
    "code-review": (
        (0.04, ("Thanks. Shall I rename {noun} too?", "Done, typo fixed.", "Ok to squash?")),
        (0.30, ("I added a guard for an empty {noun}, is that enough?", "Now {verb} returns None on failure.")),
        (0.60, ("Could {verb} be retried safely after a timeout?", "Would the cache be stale after {verb}?")),
        (
            0.90,
            (
                "And if another thread calls {verb} between the check and the lock?",
                "Is acquire ordering enough there, or can the {noun} be observed half written?",
            ),
        ),
    ),
    "creative-writing": (
        (0.06, ("Nice. A bit shorter, please.", "Make it more {mood}.", "Another title?")),
        (0.35, ("Rewrite it from the point of view of {person}.", "Now set it in {city}, {mood} in tone.")),
        (0.65, ("Put it in iambic pentameter, same story.", "Make every stanza rhyme abab without losing the plot.")),
        (
            0.92,
            (
                "Turn it into a sestina with the end-words you used.",
                "Now remove the letter a from the whole poem and keep the metre.",
            ),
        ),
    ),
}
