//! Engines of the committed tiny models, for tests that count operations.

use std::path::Path;
use std::sync::Arc;

use super::{Around, Engine, Injection, ReadOut, Settings, Tokens};
use crate::backbone::{Backbone, Dtype};
use crate::models::locate::{Located, WEIGHTS};

/// Prompt rows.
pub(crate) const PROMPT: usize = 4;

/// A committed tiny model, in `f32`.
pub(crate) fn backbone(name: &str) -> Backbone {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models").join(name);
    let weights = vec![folder.join(WEIGHTS)];
    Backbone::load(&Located { name: name.to_owned(), revision: None, folder, weights }, Dtype::F32).unwrap()
}

/// An engine of one with three examples, all in one task, in a pool of one thread: this one if it is its `own`.
pub(crate) fn engine(backbone: Arc<Backbone>, read_out: &str, injection: Injection, own: bool) -> Engine {
    let label_ids = vec![20, 21, 22];
    let read_out = match read_out {
        "masked-lm" => ReadOut::MaskedLm { label_ids },
        "next-token" => ReadOut::NextToken { label_ids },
        "seq2seq" => ReadOut::Seq2Seq { label_ids, mask: 4 },
        _ => {
            let class_embeddings = vec![vec![1.0; backbone.hidden()]; 2];
            ReadOut::Similarity { temperature: 0.05, class_embeddings }
        }
    };
    let example = |rows: u32| Tokens { ids: (1..=rows).collect(), read_out: rows as usize - 2 };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1);
    let pool = if own { pool.use_current_thread() } else { pool }.build().unwrap();
    let settings = Settings {
        injection,
        prompt_tokens: PROMPT,
        initial_ids: None,
        around: Around { before: Some(1), after: None },
        read_out,
        max_batch_tokens: 512,
        pool: Arc::new(pool),
    };
    Engine::new(backbone, settings, vec![example(9), example(5), example(14)]).unwrap()
}
