//! The template: how an example becomes the text that the model reads.
//!
//! `"{text} . It was {mask} ."` is a list of segments: literals and placeholders. Literals are kept to the
//! byte, spaces included; the example's texts are put in as they are, never read as a template.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::dataset::Example;

/// The placeholders, as an error message lists them.
const KNOWN: &str = "{text}, {text_pair}, {mask}, {prompt}";

/// One piece of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Text that stands for itself (`{{` and `}}` already turned into one brace).
    Literal(String),
    /// `{text}`: the example's text.
    Text,
    /// `{text_pair}`: the example's second text.
    TextPair,
    /// `{mask}`: the model's mask token, where a masked language model is read.
    Mask,
    /// `{prompt}`: where the prompt rows enter.
    Prompt,
}

/// A template, parsed and checked. It is written and read (serde) as its source string.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Template {
    source: String,
    segments: Vec<Segment>,
}

/// What is wrong with a template, or with an example for it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TemplateError {
    /// A placeholder nobody knows.
    #[error("template: unknown placeholder {{{name}}}; known are {KNOWN} (write {{{{ and }}}} for braces)")]
    UnknownPlaceholder {
        /// What stood between the braces.
        name: String,
    },
    /// `{` without `}`.
    #[error(
        "template: the brace opened at character {position} is not closed; write {{{{ for a brace that \
         is text"
    )]
    Unclosed {
        /// Position of the brace, in characters from 1.
        position: usize,
    },
    /// `}` without `{`.
    #[error(
        "template: the brace closed at character {position} was never opened; write }}}} for a brace \
         that is text"
    )]
    Unopened {
        /// Position of the brace, in characters from 1.
        position: usize,
    },
    /// A placeholder that may stand only once stands again.
    #[error("template: {{{name}}} stands {count} times; it may stand once")]
    Repeated {
        /// The placeholder.
        name: &'static str,
        /// How often it stands there.
        count: usize,
    },
    /// No `{text}`: every example would look the same.
    #[error("template: {{text}} is missing; without it every example would look the same")]
    NoText,
    /// The template asks for `{text_pair}`, the example has none.
    #[error("the template uses {{text_pair}}, but this example has no \"text_pair\"")]
    NoTextPair,
    /// The template asks for `{mask}`, the model has no mask token.
    #[error(
        "the template uses {{mask}}, but this model has no mask token; take {{mask}} out or read the \
         model otherwise"
    )]
    NoMaskToken,
}

impl Template {
    /// Parses `source`.
    ///
    /// # Errors
    /// Unknown placeholders, unbalanced braces, a second `{mask}` or `{prompt}`, no `{text}`.
    pub fn parse(source: &str) -> Result<Self, TemplateError> {
        let segments = segments(source)?;
        let count = |wanted: &Segment| segments.iter().filter(|&segment| segment == wanted).count();
        for (name, segment) in [("mask", Segment::Mask), ("prompt", Segment::Prompt)] {
            let count = count(&segment);
            if count > 1 {
                return Err(TemplateError::Repeated { name, count });
            }
        }
        if count(&Segment::Text) == 0 {
            return Err(TemplateError::NoText);
        }
        Ok(Self { source: source.to_owned(), segments })
    }

    /// The template as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The pieces, in order; neighbouring literals are one.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether the template has a `{mask}`.
    pub fn has_mask(&self) -> bool {
        self.segments.contains(&Segment::Mask)
    }

    /// Whether the template asks for `{text_pair}`.
    pub fn has_text_pair(&self) -> bool {
        self.segments.contains(&Segment::TextPair)
    }

    /// The text of one example.
    ///
    /// `{prompt}` renders to nothing: in this version the prompt rows always enter right after the first
    /// special token (or at the front, in a model without one), wherever `{prompt}` stands.
    ///
    /// # Errors
    /// The template uses `{text_pair}` and the example has none, or `{mask}` and `mask_token` is `None`.
    pub fn render(&self, example: &Example, mask_token: Option<&str>) -> Result<String, TemplateError> {
        let mut out = String::with_capacity(self.source.len() + example.text.len());
        for segment in &self.segments {
            out.push_str(match segment {
                Segment::Literal(literal) => literal,
                Segment::Text => &example.text,
                Segment::TextPair => example.text_pair.as_deref().ok_or(TemplateError::NoTextPair)?,
                Segment::Mask => mask_token.ok_or(TemplateError::NoMaskToken)?,
                Segment::Prompt => "",
            });
        }
        Ok(out)
    }
}

/// Cuts `source` at its placeholders.
fn segments(source: &str) -> Result<Vec<Segment>, TemplateError> {
    let mut segments = Vec::new();
    let mut literal = String::new();
    let mut letters = source.chars().enumerate().peekable();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '{' | '}' if letters.next_if(|&(_, next)| next == letter).is_some() => literal.push(letter),
            '{' => {
                let mut name = String::new();
                loop {
                    match letters.next() {
                        Some((_, '}')) => break,
                        // A second opening brace: the first one was never closed.
                        None | Some((_, '{')) => return Err(TemplateError::Unclosed { position: at + 1 }),
                        Some((_, letter)) => name.push(letter),
                    }
                }
                if !literal.is_empty() {
                    segments.push(Segment::Literal(std::mem::take(&mut literal)));
                }
                segments.push(placeholder(name)?);
            }
            '}' => return Err(TemplateError::Unopened { position: at + 1 }),
            letter => literal.push(letter),
        }
    }
    if !literal.is_empty() {
        segments.push(Segment::Literal(literal));
    }
    Ok(segments)
}

fn placeholder(name: String) -> Result<Segment, TemplateError> {
    match name.as_str() {
        "text" => Ok(Segment::Text),
        "text_pair" => Ok(Segment::TextPair),
        "mask" => Ok(Segment::Mask),
        "prompt" => Ok(Segment::Prompt),
        _ => Err(TemplateError::UnknownPlaceholder { name }),
    }
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(source: &str) -> Result<Self, TemplateError> {
        Self::parse(source)
    }
}

impl TryFrom<String> for Template {
    type Error = TemplateError;

    fn try_from(source: String) -> Result<Self, TemplateError> {
        Self::parse(&source)
    }
}

impl From<Template> for String {
    fn from(template: Template) -> Self {
        template.source
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(text: &str, pair: Option<&str>) -> Example {
        Example { text: text.to_owned(), text_pair: pair.map(str::to_owned), label: 0, line: 0 }
    }

    fn render(
        source: &str,
        text: &str,
        pair: Option<&str>,
        mask: Option<&str>,
    ) -> Result<String, TemplateError> {
        Template::parse(source)?.render(&example(text, pair), mask)
    }

    fn error(source: &str) -> String {
        Template::parse(source).unwrap_err().to_string()
    }

    #[test]
    fn parses_into_segments() {
        let template = Template::parse("{prompt} . {text} ? {mask} , {text_pair}").unwrap();
        let literal = |text: &str| Segment::Literal(text.to_owned());
        let expected = [
            Segment::Prompt,
            literal(" . "),
            Segment::Text,
            literal(" ? "),
            Segment::Mask,
            literal(" , "),
            Segment::TextPair,
        ];
        assert_eq!(template.segments(), expected);
        assert!(template.has_mask() && template.has_text_pair());
    }

    #[test]
    fn renders_texts_to_the_byte() {
        let sst2 = "{text} . It was {mask} .";
        assert_eq!(
            render(sst2, "a fine film ", None, Some("<mask>")).unwrap(),
            "a fine film  . It was <mask> ."
        );
        let nli = "{text} ? {mask} , {text_pair}";
        assert_eq!(render(nli, "p", Some("h"), Some("[MASK]")).unwrap(), "p ? [MASK] , h");
        assert_eq!(render("{text} 。 总之很{mask} .", "好", None, Some("[M]")).unwrap(), "好 。 总之很[M] .");
    }

    #[test]
    fn the_prompt_renders_to_nothing_and_text_may_repeat() {
        assert_eq!(render("{prompt}. {text} {text}", "a", None, None).unwrap(), ". a a");
    }

    #[test]
    fn braces_are_escaped_by_doubling() {
        assert_eq!(render("{{{text}}} {{mask}}", "a", None, None).unwrap(), "{a} {mask}");
        assert!(!Template::parse("{text} {{mask}}").unwrap().has_mask());
    }

    #[test]
    fn braces_in_an_example_are_only_text() {
        assert_eq!(render("{text}!", "{mask} {{", None, None).unwrap(), "{mask} {{!");
    }

    #[test]
    fn refuses_wrong_templates_and_says_what_is_right() {
        let unknown = error("{text} {masc}");
        assert!(unknown.contains("{masc}"), "{unknown}");
        assert!(unknown.contains("{text}, {text_pair}, {mask}, {prompt}"), "{unknown}");
        assert!(unknown.contains("{{ and }}"), "{unknown}");
        assert_eq!(Template::parse("{text} {mask"), Err(TemplateError::Unclosed { position: 8 }));
        assert_eq!(Template::parse("é{ {text}"), Err(TemplateError::Unclosed { position: 2 }));
        assert_eq!(Template::parse("{text} } "), Err(TemplateError::Unopened { position: 8 }));
        let repeated = |name| Err(TemplateError::Repeated { name, count: 2 });
        assert_eq!(Template::parse("{text}{mask}{mask}"), repeated("mask"));
        assert_eq!(Template::parse("{prompt}{text}{prompt}"), repeated("prompt"));
        assert_eq!(Template::parse("It was {mask}"), Err(TemplateError::NoText));
        assert_eq!(Template::parse(""), Err(TemplateError::NoText));
    }

    #[test]
    fn refuses_to_render_what_is_not_there() {
        assert_eq!(render("{text} {text_pair}", "a", None, None), Err(TemplateError::NoTextPair));
        assert_eq!(render("{text} {mask}", "a", None, None), Err(TemplateError::NoMaskToken));
    }

    #[test]
    fn is_written_and_read_as_its_source() {
        let template = Template::parse("{{x}} {text}\n{mask}").unwrap();
        let json = serde_json::to_string(&template).unwrap();
        assert_eq!(json, r#""{{x}} {text}\n{mask}""#);
        assert_eq!(serde_json::from_str::<Template>(&json).unwrap(), template);
        let wrong = serde_json::from_str::<Template>(r#""{txt}""#).unwrap_err().to_string();
        assert!(wrong.contains("{txt}"), "{wrong}");
    }

    #[test]
    fn any_source_is_parsed_or_refused_and_escaping_brings_any_text_back() {
        use crate::random::{Domain, Stream};
        let pieces =
            ["{text}", "{mask}", "{prompt}", "{text_pair}", "{", "}", "{{", "}}", "é", " ", "{x}", "text"];
        for round in 0..2000 {
            let mut words = [0; 6];
            Stream::new(1, Domain::Sample, round).fill_words(0, &mut words);
            let source: String = words.iter().map(|&word| pieces[word as usize % pieces.len()]).collect();
            if let Ok(template) = Template::parse(&source) {
                assert_eq!(template.source(), source);
                template.render(&example("a", Some("b")), Some("m")).unwrap();
            }
            let escaped = source.replace('{', "{{").replace('}', "}}") + "{text}";
            assert_eq!(render(&escaped, "!", None, None).unwrap(), source + "!");
        }
    }
}
