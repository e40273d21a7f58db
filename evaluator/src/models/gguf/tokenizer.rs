//! The tokenizer that a GGUF file describes, put together as the model's own: byte-level BPE ("gpt2") or
//! SentencePiece's BPE ("llama").

use std::collections::{BTreeMap, HashMap, HashSet};

use candle_core::quantized::gguf_file::Value;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{NFC, Replace};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use super::{Gguf, GgufError};

/// What SentencePiece writes for a space.
const SPACE: &str = "\u{2581}";

/// `tokenizer.ggml.token_type`: control, and what users defined.
const CONTROL: u64 = 3;
const DEFINED: u64 = 4;

const LLAMA_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How a byte-level tokenizer cuts a text before its merges, by `tokenizer.ggml.pre`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Gpt,
    Llama,
    Qwen,
    Smol,
}

const CUTS: &[(&str, Cut)] = &[
    ("default", Cut::Gpt),
    ("gpt-2", Cut::Gpt),
    ("llama3", Cut::Llama),
    ("llama-v3", Cut::Llama),
    ("llama-bpe", Cut::Llama),
    ("smaug-bpe", Cut::Llama),
    ("qwen2", Cut::Qwen),
    ("deepseek-r1-qwen", Cut::Qwen),
    ("smollm", Cut::Smol),
];

impl Gguf {
    /// The tokenizer.
    ///
    /// # Errors
    /// One of a kind that is not supported, or that is not described wholly.
    pub(crate) fn tokenizer(&self) -> Result<Tokenizer, GgufError> {
        let tokens = self.texts("tokens")?.ok_or_else(|| self.wrong(missing("tokens")))?;
        let wrong = |error: tokenizers::Error| self.wrong(format!("its tokenizer: {error}"));
        let kind = self.text("model").unwrap_or_default();
        let (mut tokenizer, leads) = match kind {
            "gpt2" => self.byte_level(&tokens)?,
            "llama" => (self.sentence_piece(&tokens)?, true),
            other => {
                let text =
                    format!("tokenizer.ggml.model \"{other}\" is not supported; supported are: gpt2, llama");
                return Err(self.wrong(text));
            }
        };
        let kinds = self.wholes("token_type")?.unwrap_or_default();
        let of_kind = |wanted: u64| tokens.iter().zip(&kinds).filter(move |(_, kind)| **kind == wanted);
        let special = ["bos", "eos", "unknown", "padding"].map(|name| self.token(&tokens, name));
        let control = of_kind(CONTROL).map(|(token, _)| token).chain(special.iter().flatten().copied());
        let control: Vec<AddedToken> = control.map(|token| added(token, true)).collect();
        tokenizer.add_special_tokens(control).map_err(wrong)?;
        let known = |token: &&String| tokenizer.token_to_id(token).is_some();
        let defined = of_kind(DEFINED).map(|(token, _)| token).filter(known);
        let defined: Vec<AddedToken> = defined.map(|token| added(token, false)).collect();
        tokenizer.add_tokens(defined).map_err(wrong)?;
        self.surround(&mut tokenizer, &tokens, leads)?;
        Ok(tokenizer)
    }

    /// Puts `<bos>` before every text and `<eos>` behind, where the file asks for it; `leads` is what it means by saying
    /// nothing of `<bos>`.
    fn surround(&self, tokenizer: &mut Tokenizer, tokens: &[String], leads: bool) -> Result<(), GgufError> {
        let wrong = |problem: String| self.wrong(format!("its tokenizer: {problem}"));
        let asked = [("bos", leads), ("eos", false)]
            .map(|(name, unsaid)| self.flag(&format!("add_{name}_token")).unwrap_or(unsaid));
        let mut around = [None, None];
        for ((place, asked), name) in around.iter_mut().zip(asked).zip(["bos", "eos"]) {
            if asked {
                let token = self.token(tokens, name);
                *place =
                    Some(token.ok_or_else(|| wrong(format!("tokenizer.ggml.{name}_token_id is missing")))?);
            }
        }
        if around == [None, None] {
            return Ok(());
        }
        let [before, after] = around.map(|token| token.map(|token| format!("{token}:0")));
        let single: Vec<String> = before.into_iter().chain(["$A:0".to_owned()]).chain(after).collect();
        let special: Vec<(String, u32)> = around
            .into_iter()
            .flatten()
            .filter_map(|token| Some((token.clone(), tokenizer.token_to_id(token)?)))
            .collect();
        let mut builder = TemplateProcessing::builder();
        builder.try_single(single).map_err(&wrong)?;
        let template = builder.special_tokens(special).build().map_err(|error| wrong(error.to_string()))?;
        tokenizer.with_post_processor(Some(template));
        Ok(())
    }

    /// Byte-level BPE, and whether it puts `<bos>` first where the file does not say: Llama 3's does.
    fn byte_level(&self, tokens: &[String]) -> Result<(Tokenizer, bool), GgufError> {
        let wrong = |error: tokenizers::Error| self.wrong(format!("its tokenizer: {error}"));
        let pre = self.text("pre").unwrap_or("default");
        let Some((_, cut)) = CUTS.iter().find(|(name, _)| *name == pre) else {
            let known = CUTS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            let text = format!("tokenizer.ggml.pre \"{pre}\" is not supported; supported are: {known}");
            return Err(self.wrong(text));
        };
        let merges = self.merges()?.ok_or_else(|| self.wrong(missing("merges")))?;
        let bpe = BPE::builder().vocab_and_merges(vocabulary(tokens), merges);
        let bpe = bpe.ignore_merges(*cut == Cut::Llama).build().map_err(wrong)?;
        let mut tokenizer = Tokenizer::new(bpe);
        let split = |pattern: &str| {
            let pattern = SplitPattern::Regex(pattern.to_owned());
            Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(wrong)
        };
        let (bytes, bytes_of_words) = (ByteLevel::new(false, true, false), ByteLevel::new(false, true, true));
        let parts = match cut {
            Cut::Gpt => vec![bytes_of_words.into()],
            Cut::Llama => vec![split(LLAMA_SPLIT)?.into(), bytes.into()],
            Cut::Qwen => vec![split(QWEN_SPLIT)?.into(), bytes.into()],
            Cut::Smol => vec![Digits::new(true).into(), bytes_of_words.into()],
        };
        tokenizer.with_pre_tokenizer(Some(Sequence::new(parts)));
        if *cut == Cut::Qwen {
            tokenizer.with_normalizer(Some(NFC)).map_err(wrong)?;
        }
        Ok((tokenizer, *cut == Cut::Llama))
    }

    /// SentencePiece's BPE: Gemma's writes spaces as they are in the vocabulary's own order of merges, Llama 2's puts
    /// one before the first word and orders merges by score.
    fn sentence_piece(&self, tokens: &[String]) -> Result<Tokenizer, GgufError> {
        let wrong = |error: tokenizers::Error| self.wrong(format!("its tokenizer: {error}"));
        let gemma = self.family.architecture.starts_with("gemma");
        let respelled = |token: &String| match token.trim_matches(' ') {
            "" if gemma => SPACE.repeat(token.len()),
            _ => token.clone(),
        };
        let pieces: Vec<String> = tokens.iter().map(respelled).collect();
        let merges = match self.merges()? {
            Some(merges) => merges,
            None if gemma => recovered(&pieces, |token| -(token as f64)),
            None => {
                let scores = self.reals("scores")?.ok_or_else(|| self.wrong(missing("scores")))?;
                recovered(&pieces, |token| scores.get(token).copied().unwrap_or(f64::NEG_INFINITY))
            }
        };
        let mut bpe = BPE::builder().vocab_and_merges(vocabulary(&pieces), merges);
        bpe = bpe.byte_fallback(true).fuse_unk(true);
        if let Some(unknown) = self.token(tokens, "unknown") {
            bpe = bpe.unk_token(unknown.clone());
        }
        let mut tokenizer = Tokenizer::new(bpe.build().map_err(wrong)?);
        if gemma {
            tokenizer.with_normalizer(Some(Replace::new(" ", SPACE).map_err(wrong)?)).map_err(wrong)?;
        } else {
            let leading = self.flag("add_space_prefix").unwrap_or(true);
            let scheme = if leading { PrependScheme::First } else { PrependScheme::Never };
            tokenizer.with_pre_tokenizer(Some(Metaspace::new('\u{2581}', scheme, false)));
        }
        Ok(tokenizer)
    }

    /// The token whose id is `tokenizer.ggml.NAME_token_id`.
    fn token<'a>(&self, tokens: &'a [String], name: &str) -> Option<&'a String> {
        let id = whole(self.value(&format!("tokenizer.ggml.{name}_token_id"))?)?;
        tokens.get(usize::try_from(id).ok()?)
    }

    fn flag(&self, key: &str) -> Option<bool> {
        match self.value(&format!("tokenizer.ggml.{key}")) {
            Some(Value::Bool(flag)) => Some(*flag),
            _ => None,
        }
    }

    fn text(&self, key: &str) -> Option<&str> {
        match self.value(&format!("tokenizer.ggml.{key}")) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    fn merges(&self) -> Result<Option<Vec<(String, String)>>, GgufError> {
        let Some(texts) = self.texts("merges")? else { return Ok(None) };
        let pair = |text: String| match text.split_once(' ') {
            Some((left, right)) => Ok((left.to_owned(), right.to_owned())),
            None => Err(self.wrong(format!("tokenizer.ggml.merges: \"{text}\" is no pair"))),
        };
        texts.into_iter().map(pair).collect::<Result<_, _>>().map(Some)
    }

    fn texts(&self, key: &str) -> Result<Option<Vec<String>>, GgufError> {
        self.list(key, |value| match value {
            Value::String(text) => Some(text.clone()),
            _ => None,
        })
    }

    fn wholes(&self, key: &str) -> Result<Option<Vec<u64>>, GgufError> {
        self.list(key, whole)
    }

    fn reals(&self, key: &str) -> Result<Option<Vec<f64>>, GgufError> {
        self.list(key, |value| match value {
            Value::F32(number) => Some(f64::from(*number)),
            _ => None,
        })
    }

    fn list<T>(&self, key: &str, of: impl Fn(&Value) -> Option<T>) -> Result<Option<Vec<T>>, GgufError> {
        let name = format!("tokenizer.ggml.{key}");
        let Some(value) = self.value(&name) else { return Ok(None) };
        let list = match value {
            Value::Array(values) => values.iter().map(of).collect::<Option<Vec<T>>>(),
            _ => None,
        };
        list.map(Some).ok_or_else(|| self.wrong(format!("{name} is no list of the values expected")))
    }
}

fn missing(key: &str) -> String {
    format!("tokenizer.ggml.{key} is missing; a tokenizer is read from the file itself")
}

fn whole(value: &Value) -> Option<u64> {
    match *value {
        Value::I32(number) => u64::try_from(number).ok(),
        ref other => other.to_u64().ok(),
    }
}

fn added(token: &str, special: bool) -> AddedToken {
    AddedToken::from(token, special).normalized(false)
}

fn vocabulary(tokens: &[String]) -> Vocab {
    tokens.iter().zip(0..).map(|(token, id)| (token.clone(), id)).collect()
}

/// The merges that a vocabulary implies: every cut of a token into two others, the token of the highest score first,
/// then the longer left part.
fn recovered(tokens: &[String], score: impl Fn(usize) -> f64) -> Vec<(String, String)> {
    let ids: HashMap<&str, usize> = tokens.iter().map(String::as_str).zip(0..).collect(); // looked up only
    let mut seen = HashSet::new(); // asked only
    let mut merges: Vec<(f64, usize, usize, (usize, usize))> = Vec::new();
    for token in tokens.iter().map(String::as_str).filter(|token| seen.insert(*token)) {
        let Some(&id) = ids.get(token) else { continue };
        let mut own = BTreeMap::new();
        let letters = token.chars().count();
        for (count, (at, _)) in token.char_indices().enumerate().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&left), Some(&right)) = (ids.get(left), ids.get(right)) {
                own.insert((left, right), count);
            }
        }
        merges.extend(own.into_iter().map(|(pair, count)| (score(id), count, letters - count, pair)));
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((b.1, b.2).cmp(&(a.1, a.2))));
    let text = |id: usize| tokens.get(id).cloned().unwrap_or_default();
    merges.into_iter().map(|(_, _, _, (left, right))| (text(left), text(right))).collect()
}
