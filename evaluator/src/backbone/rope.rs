//! Rotary positions from the keys that configurations write, in transformers 4's way and in transformers 5's.

use serde::Deserialize;

use super::PageError;
use super::rotary::Rotary;

/// Positions that angles are tabled for at most; it bounds a model's `max_tokens`, and memory.
pub(super) const MOST_POSITIONS: usize = 32_768;

/// A configuration's keys about rotary positions.
#[derive(Deserialize)]
pub(super) struct RopeKeys {
    rope_theta: Option<f64>,
    rope_scaling: Option<Rope>,
    rope_parameters: Option<Parameters>,
    /// Gemma 3's and ModernBERT's bases of layers with a window.
    #[serde(alias = "local_rope_theta")]
    rope_local_base_freq: Option<f64>,
    global_rope_theta: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Parameters {
    /// Layers with and without a window turn at their own pace.
    ByKind {
        full_attention: Rope,
        sliding_attention: Rope,
    },
    One(Rope),
}

#[derive(Clone, Default, Deserialize)]
struct Rope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    partial_rotary_factor: Option<f64>,
    /// Each pair's frequency is divided by its own: what a GGUF file has for Llama 3's scaling.
    divisors: Option<Vec<f32>>,
}

/// The tables of layers that see all before them, and of layers with a window.
pub(super) struct Rotaries {
    pub(super) full: Rotary,
    pub(super) window: Rotary,
}

impl RopeKeys {
    /// Tables for heads of `width` numbers; `theta` is the family's base where the configuration names none.
    pub(super) fn tables(&self, width: usize, positions: usize, theta: f64) -> Result<Rotaries, PageError> {
        let table = |rope: &Rope| -> Result<Rotary, PageError> {
            Ok(Rotary::new(rope.frequencies(width, theta)?, positions.min(MOST_POSITIONS)))
        };
        match &self.rope_parameters {
            Some(Parameters::ByKind { full_attention, sliding_attention }) => {
                Ok(Rotaries { full: table(full_attention)?, window: table(sliding_attention)? })
            }
            Some(Parameters::One(rope)) => {
                let full = table(rope)?;
                Ok(Rotaries { window: full.clone(), full })
            }
            None => {
                let base = self.global_rope_theta.or(self.rope_theta);
                let rope = self.rope_scaling.clone().unwrap_or_default();
                let full = table(&Rope { rope_theta: rope.rope_theta.or(base), ..rope })?;
                let window = match self.rope_local_base_freq {
                    Some(base) => table(&Rope { rope_theta: Some(base), ..Rope::default() })?,
                    None => full.clone(),
                };
                Ok(Rotaries { full, window })
            }
        }
    }
}

impl Rope {
    /// Each pair's angle a position. Every step rounds to f32 where PyTorch does.
    fn frequencies(&self, width: usize, theta: f64) -> Result<Vec<f32>, PageError> {
        let turned = (width as f64 * self.partial_rotary_factor.unwrap_or(1.0)) as usize;
        let theta = self.rope_theta.unwrap_or(theta);
        let plain = (0..turned / 2).map(|pair| {
            let exponent = (2 * pair) as f32 / turned as f32;
            1.0 / libm::pow(theta, f64::from(exponent)) as f32
        });
        match self.rope_type.as_deref().unwrap_or("default") {
            "default" => Ok(plain.collect()),
            "divisors" => {
                let lacking = || PageError::Config("the rotary scaling lacks divisors".to_owned());
                let divisors = self.divisors.as_ref().ok_or_else(lacking)?;
                Ok(plain.zip(divisors).map(|(frequency, divisor)| frequency / divisor).collect())
            }
            "linear" => {
                let factor = need("factor", self.factor)? as f32;
                Ok(plain.map(|frequency| frequency / factor).collect())
            }
            "llama3" => {
                let stretch = Stretch {
                    factor: need("factor", self.factor)? as f32,
                    low: need("low_freq_factor", self.low_freq_factor)? as f32,
                    high: need("high_freq_factor", self.high_freq_factor)? as f32,
                    context: need("original_max_position_embeddings", self.original_max_position_embeddings)?
                        as f32,
                };
                Ok(plain.map(|frequency| stretch.apply(frequency)).collect())
            }
            other => {
                let known = "default, linear, llama3";
                Err(PageError::Config(format!(
                    "rope_type \"{other}\" is not supported; supported are: {known}"
                )))
            }
        }
    }
}

fn need(key: &str, value: Option<f64>) -> Result<f64, PageError> {
    value.ok_or_else(|| PageError::Config(format!("the rotary scaling lacks {key}")))
}

/// Llama 3's scaling: short waves stay, long ones are stretched, those between are blended.
struct Stretch {
    factor: f32,
    low: f32,
    high: f32,
    context: f32,
}

impl Stretch {
    fn apply(&self, frequency: f32) -> f32 {
        let wave = std::f32::consts::TAU / frequency;
        if wave > self.context / self.low {
            return frequency / self.factor;
        }
        if wave < self.context / self.high {
            return frequency;
        }
        let smooth = (self.context / wave - self.low) / (self.high - self.low);
        (1.0 - smooth) * frequency / self.factor + smooth * frequency
    }
}
