//! A page of metrics: fetched as Prometheus does, and read by the rules of its text format (version 0.0.4).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;

/// Families by name.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) families: BTreeMap<String, Family>,
    pub(crate) text: String,
}

/// One metric.
#[derive(Debug, Default)]
pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) labels: BTreeSet<String>,
    pub(crate) samples: Vec<(String, f64)>,
}

impl Page {
    /// Fetches `http://ADDRESS/metrics`.
    pub(crate) fn fetch(url: &str) -> Self {
        let address = url.strip_prefix("http://").and_then(|rest| rest.strip_suffix("/metrics")).expect(url);
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, text) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
        Self::parse(text)
    }

    /// Reads it; whatever breaks the format's rules panics.
    fn parse(text: &str) -> Self {
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        let (mut helped, mut seen) = (BTreeSet::new(), BTreeSet::new());
        assert!(text.ends_with('\n'));
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect(line);
                assert!(helped.insert(name.to_owned()) && !help.is_empty(), "{line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect(line);
                assert!(helped.contains(name) && ["counter", "gauge", "histogram"].contains(&kind), "{line}");
                let family = Family { kind: kind.to_owned(), ..Family::default() };
                assert!(families.insert(name.to_owned(), family).is_none(), "{line}");
            } else {
                let (series, value) = line.rsplit_once(' ').expect(line);
                assert!(seen.insert(series.to_owned()), "twice: {line}");
                let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
                let labels = labels.strip_suffix('}').expect(line);
                let suffixes = ["_bucket", "_sum", "_count"].into_iter();
                let mut of_family = suffixes.filter(|suffix| {
                    name.strip_suffix(suffix).is_some_and(|family| families.contains_key(family))
                });
                let suffix = of_family.next().unwrap_or_default();
                let family = families.get_mut(name.strip_suffix(suffix).unwrap()).expect(line);
                assert_eq!(family.kind == "histogram", !suffix.is_empty(), "{line}");
                for label in labels.split("\",").filter(|label| !label.is_empty()) {
                    let (label, _) = label.split_once("=\"").expect(line);
                    family.labels.insert(label.to_owned());
                }
                let value = if value == "NaN" { f64::NAN } else { value.parse().expect(line) };
                family.samples.push((series.to_owned(), value));
            }
        }
        Self { families, text: text.to_owned() }
    }

    /// The value of one series, as it is written.
    pub(crate) fn value(&self, series: &str) -> Option<f64> {
        let samples = self.families.values().flat_map(|family| &family.samples);
        samples.into_iter().find(|(name, _)| name == series).map(|(_, value)| *value)
    }
}
