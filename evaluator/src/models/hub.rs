//! Models of the Hugging Face hub: from its cache on this machine, or fetched into it.
//!
//! The cache is the one that Python's tools use, so a model fetched by either serves both.

use std::io::IsTerminal;
use std::path::PathBuf;

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use shared::model::{self, CONFIG, FilesError, INDEX, PICKLE, PICKLE_INDEX, POOLING, TOKENIZER, WEIGHTS};
use thiserror::Error;

/// How often an interrupted download is taken up again.
const RETRIES: usize = 3;

/// Where models come from: a cache folder and, unless offline, an address.
#[derive(Debug)]
pub struct Hub {
    cache: Cache,
    offline: bool,
    token: Option<String>,
    endpoint: Option<String>,
}

/// Why the hub gave no model.
#[derive(Debug, Error)]
pub enum HubError {
    /// Not in the cache, and the network may not be used.
    #[error(
        "{id} (revision {revision}) is not complete in the cache {cache}, and HF_HUB_OFFLINE is set: \
         unset it, or give a folder"
    )]
    Offline {
        /// The hub id.
        id: String,
        /// Branch, tag or commit.
        revision: String,
        /// The cache folder.
        cache: PathBuf,
    },
    /// The hub did not answer, or not with this model.
    #[error("cannot fetch {what}: {source} (private models need HF_TOKEN; without a network give a folder)")]
    Fetch {
        /// The model, its revision and the file.
        what: String,
        /// What happened.
        source: Box<ApiError>,
    },
    /// The model has no such file.
    #[error(
        "{id} (revision {revision}) has no {file} on the hub; needed are {CONFIG}, {TOKENIZER} and {WEIGHTS} (or {PICKLE})"
    )]
    NotThere {
        /// The hub id.
        id: String,
        /// Branch, tag or commit.
        revision: String,
        /// The file.
        file: &'static str,
    },
    /// What was fetched is not a complete model.
    #[error(transparent)]
    Incomplete(#[from] FilesError),
    /// No place for the cache.
    #[error("no home folder for the hub's cache; set HF_HOME")]
    NoHome,
}

impl HubError {
    /// Whether another attempt may bring the model: the hub did not answer, or had trouble of its own.
    pub fn may_pass(&self) -> bool {
        let Self::Fetch { source, .. } = self else { return false };
        let mut error = source.as_ref();
        while let ApiError::TooManyRetries(last) = error {
            error = last;
        }
        let ApiError::RequestError(request) = error else { return true };
        // else it does not know the model, or not this token
        !matches!(**request, ureq::Error::StatusCode(400..=407 | 409..=428 | 430..=499))
    }
}

impl Hub {
    /// The hub as the environment has it: `HF_HUB_CACHE` or `HF_HOME` (where the cache lies), `HF_TOKEN`,
    /// `HF_ENDPOINT`, and `HF_HUB_OFFLINE` (anything but empty, `0`, `false`, `no`, `off`: never use the
    /// network).
    ///
    /// # Errors
    /// [`HubError::NoHome`].
    pub fn from_env() -> Result<Self, HubError> {
        let value = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let cache = match (value("HF_HUB_CACHE"), value("HF_HOME")) {
            (Some(cache), _) => PathBuf::from(cache),
            (None, Some(home)) => PathBuf::from(home).join("hub"),
            (None, None) => std::env::home_dir().ok_or(HubError::NoHome)?.join(".cache/huggingface/hub"),
        };
        let is_off = |value: &str| ["0", "false", "no", "off"].contains(&value.to_lowercase().as_str());
        let offline = value("HF_HUB_OFFLINE").is_some_and(|value| !is_off(&value));
        Ok(Self::new(cache, offline, value("HF_TOKEN"), value("HF_ENDPOINT")))
    }

    /// The same hub, its network never used.
    #[must_use]
    pub fn offline(self) -> Self {
        Self { offline: true, ..self }
    }

    /// A hub with its cache in `cache`; `token` overrides the one stored beside the cache, `endpoint` the
    /// address.
    pub fn new(cache: PathBuf, offline: bool, token: Option<String>, endpoint: Option<String>) -> Self {
        Self { cache: Cache::new(cache), offline, token, endpoint }
    }

    /// The folder of `id` at `revision` (branch, tag or commit), complete. What the cache has is not asked
    /// for again, so a branch stays at the commit first fetched. The folder's name is the commit.
    ///
    /// # Errors
    /// See [`HubError`].
    pub fn snapshot(&self, id: &str, revision: &str) -> Result<PathBuf, HubError> {
        let repo = Repo::with_revision(id.to_owned(), RepoType::Model, revision.to_owned());
        if let Some(folder) = self.cached(&repo) {
            return Ok(folder);
        }
        if self.offline {
            return Err(HubError::Offline {
                id: id.to_owned(),
                revision: revision.to_owned(),
                cache: self.cache.path().clone(),
            });
        }
        tracing::info!(model = id, revision, cache = %self.cache.path().display(), "fetching from the hub");
        let what = || format!("{id} (revision {revision})");
        let api = self.api().map_err(|source| HubError::Fetch { what: what(), source: Box::new(source) })?;
        fetch(&api.repo(repo), id, revision)
    }

    /// The model's folder in the cache, if all its files are there.
    fn cached(&self, repo: &Repo) -> Option<PathBuf> {
        let cached = self.cache.repo(repo.clone());
        // Python's tools write no ref for a commit asked for by its hash.
        let by_hash = || Some(cached.pointer_path(repo.revision())).filter(|folder| folder.is_dir());
        let folder = match cached.get(CONFIG) {
            Some(config) => config.parent()?.to_owned(),
            None => by_hash()?,
        };
        model::in_folder(&folder).is_ok().then_some(folder)
    }

    fn api(&self) -> Result<Api, ApiError> {
        let mut builder = ApiBuilder::from_cache(self.cache.clone())
            .with_progress(std::io::stderr().is_terminal())
            .with_retries(RETRIES);
        if let Some(token) = &self.token {
            builder = builder.with_token(Some(token.clone()));
        }
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        builder.build()
    }
}

/// Fetches the files that a model needs, and only those.
fn fetch(repo: &ApiRepo, id: &str, revision: &str) -> Result<PathBuf, HubError> {
    let failed = |file: &str, source: ApiError| HubError::Fetch {
        what: format!("{file} of {id} (revision {revision})"),
        source: Box::new(source),
    };
    let info = repo.info().map_err(|source| failed("the list of files", source))?;
    let has = |file: &str| info.siblings.iter().any(|sibling| sibling.rfilename == file);
    let need = |file: &'static str| {
        if !has(file) {
            return Err(HubError::NotThere { id: id.to_owned(), revision: revision.to_owned(), file });
        }
        repo.get(file).map_err(|source| failed(file, source))
    };
    let config = need(CONFIG)?;
    need(TOKENIZER)?;
    let forms = [(WEIGHTS, INDEX), (PICKLE, PICKLE_INDEX)];
    let form = forms.into_iter().find(|(file, index)| has(file) || has(index));
    let (file, index) = form.unwrap_or((WEIGHTS, INDEX));
    if has(file) || !has(index) {
        need(file)?;
    } else {
        let index = need(index)?;
        for file in model::shards(&index)? {
            repo.get(&file).map_err(|source| failed(&file, source))?;
        }
    }
    // a sentence encoder says there how its rows become one
    if has(POOLING) {
        repo.get(POOLING).map_err(|source| failed(POOLING, source))?;
    }
    let folder = config.parent().map(PathBuf::from).unwrap_or_default();
    model::in_folder(&folder)?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};

    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// A hub of one model on this machine; it notes the paths and tokens it is asked with.
    struct FakeHub {
        address: String,
        asked: Arc<Mutex<Vec<String>>>,
    }

    impl FakeHub {
        fn start(files: &[(&'static str, &'static str)]) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = format!("http://{}", listener.local_addr().unwrap());
            let asked = Arc::new(Mutex::new(Vec::new()));
            let (files, notes) = (files.iter().copied().collect::<BTreeMap<_, _>>(), asked.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    answer(stream.unwrap(), &files, &notes);
                }
            });
            Self { address, asked }
        }

        fn asked(&self) -> Vec<String> {
            std::mem::take(&mut self.asked.lock().unwrap())
        }
    }

    fn answer(mut stream: TcpStream, files: &BTreeMap<&str, &str>, notes: &Mutex<Vec<String>>) {
        let lines: Vec<String> = BufReader::new(&stream)
            .lines()
            .map_while(Result::ok)
            .take_while(|line| !line.is_empty())
            .collect();
        let header = |name: &str| {
            lines.iter().find_map(|line| {
                let (key, value) = line.split_once(": ")?;
                key.eq_ignore_ascii_case(name).then(|| value.to_owned())
            })
        };
        let path = lines[0].split(' ').nth(1).unwrap().to_owned();
        notes.lock().unwrap().push(format!("{path} {}", header("authorization").unwrap_or_default()));
        let body = if path == "/api/models/org/tiny/revision/main" {
            let names: Vec<_> = files.keys().map(|name| format!("{{\"rfilename\": \"{name}\"}}")).collect();
            Some(format!("{{\"sha\": \"{COMMIT}\", \"siblings\": [{}]}}", names.join(",")))
        } else {
            let name = path.strip_prefix("/org/tiny/resolve/main/");
            name.and_then(|name| files.get(name)).map(|body| (*body).to_owned())
        };
        let Some(body) = body else {
            return write!(
                stream,
                "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            .unwrap();
        };
        let sent = if header("range").as_deref() == Some("bytes=0-0") { &body[..1] } else { &body[..] };
        write!(
            stream,
            "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes 0-{}/{}\r\n\
             ETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\nConnection: close\r\n\r\n{sent}",
            sent.len(),
            sent.len() - 1,
            body.len(),
            path.replace('/', "-"),
        )
        .unwrap();
    }

    #[test]
    fn fetches_what_a_model_needs_once_and_is_content_offline_afterwards() {
        let files =
            [(CONFIG, "{1}"), (TOKENIZER, "{2}"), (WEIGHTS, "weights"), ("pytorch_model.bin", "not this")];
        let fake = FakeHub::start(&files);
        let cache = tempfile::tempdir().unwrap();
        let hub = |offline| {
            Hub::new(cache.path().to_owned(), offline, Some("secret".to_owned()), Some(fake.address.clone()))
        };
        assert!(matches!(hub(true).snapshot("org/tiny", "main"), Err(HubError::Offline { .. })));
        assert!(fake.asked().is_empty());

        let folder = hub(false).snapshot("org/tiny", "main").unwrap();
        assert_eq!(folder.file_name().unwrap(), COMMIT);
        assert_eq!(std::fs::read_to_string(folder.join(WEIGHTS)).unwrap(), "weights");
        let asked = fake.asked();
        assert!(asked.iter().all(|line| line.ends_with("Bearer secret")), "{asked:?}");
        assert!(!asked.iter().any(|line| line.contains("pytorch_model")), "{asked:?}");

        for revision in ["main", COMMIT] {
            assert_eq!(hub(true).snapshot("org/tiny", revision).unwrap(), folder);
        }
        assert_eq!(hub(false).snapshot("org/tiny", "main").unwrap(), folder);
        assert!(fake.asked().is_empty(), "what is in the cache is not asked for again");
    }

    #[test]
    fn fetches_shards_by_their_index() {
        let index = r#"{"weight_map": {"a": "s1.safetensors", "b": "s2.safetensors"}}"#;
        let files = [
            (CONFIG, "{}"),
            (TOKENIZER, "{}"),
            (INDEX, index),
            ("s1.safetensors", "1"),
            ("s2.safetensors", "2"),
        ];
        let fake = FakeHub::start(&files);
        let cache = tempfile::tempdir().unwrap();
        let hub = Hub::new(cache.path().to_owned(), false, None, Some(fake.address.clone()));
        let folder = hub.snapshot("org/tiny", "main").unwrap();
        assert_eq!(model::in_folder(&folder).unwrap().weights.len(), 2);
    }

    #[test]
    fn takes_what_pytorch_saved_where_there_is_nothing_else() {
        let fake = FakeHub::start(&[(CONFIG, "{}"), (TOKENIZER, "{}"), (PICKLE, "p"), ("model.onnx", "no")]);
        let cache = tempfile::tempdir().unwrap();
        let hub = Hub::new(cache.path().to_owned(), false, None, Some(fake.address.clone()));
        let folder = hub.snapshot("org/tiny", "main").unwrap();
        assert_eq!(model::in_folder(&folder).unwrap().weights, [folder.join(PICKLE)]);
    }

    #[test]
    fn says_what_the_hub_does_not_have() {
        let fake = FakeHub::start(&[(CONFIG, "{}"), ("vocab.txt", "x"), (WEIGHTS, "w")]);
        let cache = tempfile::tempdir().unwrap();
        let hub = Hub::new(cache.path().to_owned(), false, None, Some(fake.address.clone()));
        let error = hub.snapshot("org/tiny", "main").unwrap_err().to_string();
        assert!(error.contains("org/tiny (revision main) has no tokenizer.json"), "{error}");
        let absent = hub.snapshot("org/absent", "main").unwrap_err();
        let error = absent.to_string();
        assert!(error.contains("org/absent") && error.contains("404"), "{error}");
        assert!(!absent.may_pass());
        let nobody = Hub::new(cache.path().to_owned(), false, None, Some("http://127.0.0.1:1".to_owned()));
        let unreachable = nobody.snapshot("org/tiny", "v2").unwrap_err();
        assert!(matches!(unreachable, HubError::Fetch { .. }) && unreachable.may_pass(), "{unreachable}");
    }
}
