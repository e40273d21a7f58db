//! Every key of a run file, once: what the reader accepts and takes where nothing is said, what an error suggests and
//! what `docs/run-file.md` says.

use toml::{Table, Value};

/// One key of a run file.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// `section.name`.
    pub name: &'static str,
    /// As it would be written, or in words where it depends on something else; empty when the key must be given.
    pub default: &'static str,
    /// Meaning, unit and allowed values.
    pub meaning: &'static str,
}

const fn key(name: &'static str, default: &'static str, meaning: &'static str) -> Key {
    Key { name, default, meaning }
}

/// All keys, in the order of the documentation.
pub const KEYS: &[Key] = &[
    key(
        "model.path",
        "",
        "folder of the model or a `.gguf` file (relative to the run file), or hub id `organisation/name`",
    ),
    key("model.revision", "the hub's default", "branch, tag or commit, for a hub id"),
    key(
        "model.dtype",
        "\"f32\"",
        "type of the blocks' linear layers: `f32`, `bf16`, `int8`, or on a GPU `f16`; see [precision](precision.md)",
    ),
    key(
        "model.device",
        "\"cpu\"",
        "device of the embedded evaluator: `cpu`, `cuda`, `cuda:N` or `metal`; see [GPUs](gpu.md)",
    ),
    key(
        "model.read_out",
        "\"masked-lm\"",
        "`masked-lm` (label words at the mask), `next-token` (after the text), `seq2seq` (where a decoder reads the mask) or `similarity` (cosine with each label phrase)",
    ),
    key("model.temperature", "0.05", "divisor of the cosines (similarity only)"),
    key(
        "task.name",
        "the run file's name",
        "name for reports and for the run folder (`/` becomes `-` there)",
    ),
    key("task.train", "", "labelled pool that train and dev examples are drawn from: .jsonl, .csv or .tsv"),
    key("task.test", "none", "labelled test set, scored before and after"),
    key(
        "task.template",
        "\"{text}\"",
        "how an example becomes text: `{text}`, `{text_pair}`, `{mask}`, `{prompt}`; `{{` and `}}` are braces",
    ),
    key("task.words", "", "one label word (or phrase, for similarity) a class, in label order"),
    key("task.shots", "16", "examples a class for training, and as many again for dev"),
    key(
        "task.loss",
        "\"ce\"",
        "what a candidate scores: `ce` (cross-entropy), `hinge` (margin 2) or `metric` (the metric, negated)",
    ),
    key("task.metric", "\"accuracy\"", "what dev and test are rated by: `accuracy` or `f1` (of class 1)"),
    key("prompt.tokens", "50", "prompt tokens a layer"),
    key(
        "prompt.injection",
        "\"add\"",
        "`add` (added to the hidden states at the prompt's positions) or `prefix` (replaces them: keys and values only)",
    ),
    key(
        "prompt.init",
        "\"vocabulary\"",
        "what the prompt's positions hold before tuning: `vocabulary` (fixed token ids) or `none`",
    ),
    key(
        "search.method",
        "\"bbtv2\"",
        "`bbtv2` (a prompt at every layer) or `bbt` (at the input layer alone)",
    ),
    key(
        "search.dim",
        "500",
        "intrinsic dimension of one layer's search space, at most 4096 (100000 where `covariance` is neither `full` nor `diagonal-start`)",
    ),
    key("search.population", "20", "candidates in one generation, 4 to 65536"),
    key("search.sigma", "0.2", "initial step size"),
    key(
        "search.alpha",
        "0.2",
        "initial standard deviation of a prompt's entries, in standard deviations of its layer's hidden states",
    ),
    key("search.budget", "8000", "calls: candidates evaluated on the training examples"),
    key("search.seed", "42", "seed of the split, the projections and the candidates"),
    key("search.projection", "\"normal\"", "`normal` (designed standard deviation) or `uniform`"),
    key(
        "search.incumbent",
        "\"best\"",
        "which point of a layer the others see: `best` (of the run), `mean` (of the distribution) or `generation-best`",
    ),
    key(
        "search.select",
        "\"metric\"",
        "what dev keeps a prompt by: its `metric` (then its loss) or its `loss`, which is finer where dev is small",
    ),
    key("search.dev_every", "1", "generations between two scores on dev; the last one is always scored"),
    key(
        "search.covariance",
        "\"full\"",
        "what of a layer's covariance is learnt: `full`, `separable` (its diagonal), `diagonal-start`, `limited-memory` (a few directions) or `auto` (by dimension and budget; the trace says which); see [the optimiser](cma.md)",
    ),
    key(
        "search.learning_rates",
        "\"fixed\"",
        "how fast mean and covariance move: `fixed`, or `adapted` to the noise of the losses (`full` and `separable` only)",
    ),
    key(
        "search.bounds",
        "none",
        "`[lower, upper]`: numbers below and above 0 that no entry of a layer's `z` leaves; fixed learning rates only; see [the optimiser](cma.md#options)",
    ),
    key(
        "search.reevaluate",
        "false",
        "whether a layer's best point is evaluated again with each of its generations, in place of a candidate: its old loss is of an older context",
    ),
    key(
        "search.racing",
        "false",
        "whether a candidate that cannot enter the better half any more is spared its remaining examples (docs/method.md)",
    ),
    key(
        "search.deadline",
        "none",
        "seconds after which a generation ends, once half of its candidates are in: the others rank last, and the result depends on time (docs/fleet.md)",
    ),
    key("run.folder", "\"runs/NAME-SEED\"", "where the run's files go (relative to the run file)"),
    key("run.threads", "0", "threads of the embedded evaluator, at most 4096; 0 means all cores"),
    key(
        "run.max_batch_tokens",
        "8192",
        "rows (real tokens) the embedded evaluator keeps in flight at most: bounds its memory; or `\"auto\"`: as many as fit into `run.memory` and make it faster",
    ),
    key(
        "run.memory",
        "what the machine's limits leave",
        "memory the run may take, as `\"4GiB\"`; one that cannot keep to it is refused before it begins (docs/memory.md)",
    ),
    key(
        "run.projections",
        "\"auto\"",
        "`memory` (kept), `regenerate` (made anew for each piece of work) or `auto` (kept while they fit into half of `run.memory`)",
    ),
    key("run.lease_timeout_s", "60", "seconds after which unanswered work is given to another evaluator"),
    key(
        "run.write_timeout_s",
        "600",
        "seconds that a finished run goes on trying to write into a folder that is full or read-only (docs/troubleshooting.md)",
    ),
];

/// Whether a section of that name exists.
pub(super) fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.name.split('.').next() == Some(name))
}

/// Whether `section.name` exists.
pub(super) fn is_key(name: &str) -> bool {
    KEYS.iter().any(|key| key.name == name)
}

/// What a key that is not given has for a value; `None` where its default is no value.
pub(super) fn default(name: &str) -> Option<Value> {
    let key = KEYS.iter().find(|key| key.name == name)?;
    toml::from_str::<Table>(&format!("v = {}", key.default)).ok()?.remove("v")
}

/// The known key nearest to `unknown`, by edit distance; a right name in a wrong section comes first.
pub(super) fn nearest(unknown: &str) -> &'static str {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let elsewhere = KEYS.iter().find(|key| last(key.name) == last(unknown));
    let by_distance = || KEYS.iter().min_by_key(|key| strsim::damerau_levenshtein(key.name, unknown));
    elsewhere.or_else(by_distance).map_or("", |key| key.name)
}

/// What was meant by `unknown` where sections stand: a key without its section, or else the nearest section.
pub(super) fn nearest_outside(unknown: &str) -> &'static str {
    let bare = KEYS.iter().find(|key| key.name.rsplit('.').next() == Some(unknown)).map(|key| key.name);
    let sections = || KEYS.iter().filter_map(|key| key.name.split('.').next());
    bare.or_else(|| sections().min_by_key(|name| strsim::damerau_levenshtein(name, unknown))).unwrap_or("")
}
