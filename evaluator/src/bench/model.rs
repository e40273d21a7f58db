//! What the engine is built on for the bench: a backbone, examples and prompts, from a shape, a real model or a work
//! folder. Everything random is a function of its place, so two benches of one plan do the same work.

use std::ops::Range;
use std::path::Path;

use rayon::prelude::*;
use shared::random::{Domain, Stream};
use shared::spec::Dtype;

use super::shapes::{self, Reading, Shape};
use super::work::Work;
use super::{BenchError, Plan, Subject};
use crate::backbone::Backbone;
use crate::engine::{self, Around, Injection, ReadOut, Tokens};
use crate::model::{LoadError, Model};
use crate::models::locate::{self, Located, WEIGHTS};

/// Divisor of the similarities.
const TEMPERATURE: f32 = 0.05;
/// The seed of everything.
const SEED: u64 = 2205;
/// The first of the initial prompt's ids, and of a text's.
const FIRST_ID: u32 = 1000;

/// Where backbone, examples and prompts come from.
pub(super) enum Source {
    Shape(&'static Shape),
    Model(Box<Real>),
    Work(Box<Work>),
}

/// A real model's files and what its tokenizer made of the examples.
pub(super) struct Real {
    located: Located,
    subject: Parts,
}

/// What an engine is built on, beside its backbone.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) train: Vec<Tokens>,
    pub(super) initial_ids: Vec<u32>,
    pub(super) around: Around,
    pub(super) read_out: Words,
}

/// A read-out before its classes are embedded.
#[derive(Clone)]
pub(super) enum Words {
    Ready(ReadOut),
    Phrases { temperature: f32, ids: Vec<Vec<u32>> },
}

impl Source {
    /// Finds the subject; of a work folder the plan's numbers, too.
    pub(super) fn open(plan: &Plan) -> Result<(Self, Plan), BenchError> {
        match &plan.subject {
            Subject::Shape(name) => {
                let shape = shapes::find(name).ok_or_else(|| BenchError::Shape(name.clone()))?;
                Ok((Self::Shape(shape), plan.clone()))
            }
            Subject::Model(name) => Ok((Self::Model(Box::new(Real::open(name, plan)?)), plan.clone())),
            Subject::Work(folder) => {
                let work = Work::read(folder)?;
                let injection = if work.injection == "add" { Injection::Add } else { Injection::Prefix };
                let plan = Plan {
                    injections: vec![injection],
                    examples: work.examples.len(),
                    prompt_tokens: work.prompt_tokens,
                    population: work.candidates.len(),
                    threads: work.threads,
                    ..plan.clone()
                };
                Ok((Self::Work(Box::new(work)), plan))
            }
        }
    }

    /// The name that results go by.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Shape(shape) => shape.name.to_owned(),
            Self::Model(real) => real.located.name.clone(),
            Self::Work(work) => work.model.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        }
    }

    /// The backbone, its linear layers in `dtype`.
    pub(super) fn backbone(&self, dtype: Dtype) -> Result<Backbone, BenchError> {
        Ok(match self {
            Self::Shape(shape) => Backbone::random(shape.config, shape.optional, dtype)?,
            Self::Model(real) => Backbone::load(&real.located, dtype)?,
            Self::Work(work) => {
                // a folder of random weights has no tokenizer, so it is not looked for
                let (folder, weights) = (work.model.clone(), vec![work.model.join(WEIGHTS)]);
                Backbone::load(&Located { name: self.name(), revision: None, folder, weights }, dtype)?
            }
        })
    }

    /// Examples, initial ids and read-out.
    pub(super) fn parts(&self, plan: &Plan) -> Parts {
        match self {
            Self::Shape(shape) => of_shape(shape, plan),
            Self::Model(real) => real.subject.clone(),
            Self::Work(work) => of_work(work),
        }
    }

    /// The context's prompt of a layer, `[n * hidden]`.
    pub(super) fn context(&self, plan: &Plan, injection: Injection, layer: usize, hidden: usize) -> Vec<f32> {
        match self {
            Self::Work(work) => work.context[layer].clone(),
            _ => prompt(plan, injection, (layer, u32::MAX as usize), hidden),
        }
    }

    /// Some candidates of a layer.
    pub(super) fn candidates(
        &self,
        plan: &Plan,
        injection: Injection,
        (layer, range): (usize, Range<usize>),
        hidden: usize,
    ) -> Vec<Vec<f32>> {
        match self {
            Self::Work(work) => work.candidates[range].to_vec(),
            _ => range
                .into_par_iter()
                .map(|candidate| prompt(plan, injection, (layer, candidate), hidden))
                .collect(),
        }
    }
}

impl Words {
    /// The read-out, its classes embedded by `backbone`.
    pub(super) fn ready(self, backbone: &Backbone) -> Result<ReadOut, BenchError> {
        match self {
            Self::Ready(read_out) => Ok(read_out),
            Self::Phrases { temperature, ids } => {
                let phrases: Vec<Tokens> = ids.into_iter().map(|ids| Tokens { ids, read_out: 0 }).collect();
                let class_embeddings = engine::embed(backbone, &phrases)?;
                Ok(ReadOut::Similarity { temperature, class_embeddings })
            }
        }
    }
}

/// A random prompt, about as large as a search's at its beginning.
fn prompt(plan: &Plan, injection: Injection, (layer, candidate): (usize, usize), hidden: usize) -> Vec<f32> {
    let size = if injection == Injection::Add { 0.1 } else { 0.5 };
    let mut normals = vec![0.0; plan.prompt_tokens * hidden];
    let index = ((layer as u64) << 32) | candidate as u64;
    Stream::new(SEED, Domain::Search, index).fill_normals(0, &mut normals);
    normals.into_iter().map(|x| (size * x) as f32).collect()
}

/// The number of rows of each example: as long as SST-2's with its template, 29 on average.
fn lengths(count: usize) -> Vec<usize> {
    let mut normals = vec![0.0; count];
    Stream::new(SEED, Domain::Sample, 0).fill_normals(0, &mut normals);
    normals.into_iter().map(|x| (30.0 + 10.0 * x).round().clamp(9.0, 47.0) as usize).collect()
}

/// Random ids of a text of the example `index`.
fn random_ids(index: usize, count: usize, vocab: Range<u32>) -> Vec<u32> {
    let mut uniforms = vec![0.0; count];
    Stream::new(SEED, Domain::Sample, 1 + index as u64).fill_uniforms(0, &mut uniforms);
    uniforms.into_iter().map(|x| vocab.start + (x * f64::from(vocab.end - vocab.start)) as u32).collect()
}

fn of_shape(shape: &Shape, plan: &Plan) -> Parts {
    const TEXT: Range<u32> = FIRST_ID..30_000; // every shape's vocabulary has them
    let example = |(index, rows): (usize, usize)| {
        let special = usize::from(shape.before.is_some()) + usize::from(shape.after.is_some());
        let mut ids: Vec<u32> = shape.before.into_iter().collect();
        ids.extend(random_ids(index, rows - special, TEXT));
        ids.extend(shape.after);
        let read_out = match shape.reading {
            Reading::Next => rows - 1,
            Reading::Mask | Reading::Decoded => rows - 3,
            Reading::Similar => 0,
        };
        if matches!(shape.reading, Reading::Mask | Reading::Decoded) {
            ids[read_out] = shape.mask;
        }
        Tokens { ids, read_out }
    };
    let label_ids = vec![12_338, 7_010];
    let phrase = |id| shape.before.into_iter().chain([id]).chain(shape.after).collect();
    Parts {
        train: lengths(plan.examples).into_iter().enumerate().map(example).collect(),
        initial_ids: (FIRST_ID..).take(plan.prompt_tokens).collect(),
        around: Around { before: shape.before, after: shape.after },
        read_out: match shape.reading {
            Reading::Mask => Words::Ready(ReadOut::MaskedLm { label_ids }),
            Reading::Next => Words::Ready(ReadOut::NextToken { label_ids }),
            Reading::Decoded => Words::Ready(ReadOut::Seq2Seq { label_ids, mask: shape.mask }),
            Reading::Similar => {
                let ids = vec![phrase(2307), phrase(2919)];
                Words::Phrases { temperature: TEMPERATURE, ids }
            }
        },
    }
}

fn of_work(work: &Work) -> Parts {
    let tokens =
        |example: &super::work::Example| Tokens { ids: example.ids.clone(), read_out: example.read_out };
    let first = work.examples.first();
    Parts {
        train: work.examples.iter().map(tokens).collect(),
        initial_ids: work.initial_ids.clone(),
        around: Around {
            before: first.and_then(|example| example.ids.first().copied()),
            after: first.and_then(|example| example.ids.last().copied()),
        },
        read_out: match work.read_out.as_str() {
            "masked-lm" => Words::Ready(ReadOut::MaskedLm { label_ids: work.label_ids.clone() }),
            _ => Words::Phrases { temperature: work.temperature, ids: work.class_phrases.clone() },
        },
    }
}

/// Words that every English vocabulary has; texts are drawn from them.
const WORDS: [&str; 24] = [
    "the", "film", "is", "a", "story", "of", "people", "who", "never", "find", "what", "they", "want", "but",
    "great", "bad", "long", "and", "music", "time", "funny", "with", "little", "heart",
];

impl Real {
    /// Loads the model once, for its tokenizer.
    fn open(name: &str, plan: &Plan) -> Result<Self, BenchError> {
        let located = locate::locate(name, Path::new(""), None).map_err(LoadError::from)?;
        let model = Model::from_located(&located, Dtype::F32)?;
        let (vocab, encoder) = (model.backbone.vocab(), &model.encoder);
        let reading = reading(&model);
        let masked = matches!(reading, Reading::Mask | Reading::Decoded);
        let mask = encoder.mask_token().filter(|_| masked);
        let example = |(index, rows)| example(&model, mask, index, rows);
        let train = lengths(plan.examples).into_iter().enumerate().map(example).collect::<Result<_, _>>()?;
        let word = |word: &str, other: usize| encoder.label_word_id(word).unwrap_or((other % vocab) as u32);
        let label_ids = vec![word("bad", 2919), word("great", 2307)];
        let read_out = match (reading, encoder.mask_id()) {
            (Reading::Mask, _) => Words::Ready(ReadOut::MaskedLm { label_ids }),
            (Reading::Next, _) => Words::Ready(ReadOut::NextToken { label_ids }),
            (Reading::Decoded, Some(mask)) => Words::Ready(ReadOut::Seq2Seq { label_ids, mask }),
            _ => {
                let ids = |text: &str| model.encode_text(text, 0).map(|encoded| encoded.ids);
                let ids = ["bad", "great"].map(ids).into_iter().collect::<Result<_, _>>();
                Words::Phrases { temperature: TEMPERATURE, ids: ids.map_err(|error| unfit(&error))? }
            }
        };
        let (before, after) = encoder.around();
        let around = Around { before: before.first().copied(), after: after.last().copied() };
        let initial_ids = encoder.initial_prompt_ids(plan.prompt_tokens, vocab);
        Ok(Self { located, subject: Parts { train, initial_ids, around, read_out } })
    }
}

/// A text of about `rows` tokens, with the mask or a word of the task at its end.
fn example(model: &Model, mask: Option<&str>, index: usize, rows: usize) -> Result<Tokens, BenchError> {
    let words = random_ids(index, rows, 0..WORDS.len() as u32);
    let words: Vec<&str> = words.into_iter().map(|word| WORDS[word as usize]).collect();
    let mut count = rows.saturating_sub(6).max(1); // what stands around them
    loop {
        let text = format!("{} . It was {} .", words[..count].join(" "), mask.unwrap_or("great"));
        // whether it fits the model is the engine's to say
        let encoded = model.encoder.encode(&text, usize::MAX).map_err(|error| unfit(&error))?;
        if encoded.ids.len() > rows && count > 1 {
            count = (count * rows / encoded.ids.len()).clamp(1, count - 1);
            continue;
        }
        let last = encoded.ids.len().saturating_sub(1 + model.encoder.around().1.len());
        let read_out = if mask.is_some() { encoded.mask().map_err(|error| unfit(&error))? } else { last };
        return Ok(Tokens { ids: encoded.ids, read_out });
    }
}

/// How a real model is read: by its language-model head where it can be.
fn reading(model: &Model) -> Reading {
    let read_outs = model.backbone.read_outs();
    let has_mask = model.encoder.mask_id().is_some();
    match read_outs.first() {
        Some(&"masked-lm") if has_mask => Reading::Mask,
        Some(&"seq2seq") => Reading::Decoded,
        Some(&"next-token") => Reading::Next,
        _ => Reading::Similar,
    }
}

fn unfit(error: &impl std::fmt::Display) -> BenchError {
    BenchError::Text(error.to_string())
}
