//! States as bytes: their version, and that what was read fits together.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::State;

/// Version of what a state consists of; raise it when an older program would misread a newer one.
const VERSION: u32 = 2;

/// The first thing that is written; another one than this program's is refused before anything else is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version;

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        VERSION.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Version, D::Error> {
        match u32::deserialize(from)? {
            VERSION => Ok(Version),
            found => Err(D::Error::custom(format!(
                "version {found} of the CMA-ES state; this program reads version {VERSION}"
            ))),
        }
    }
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        State::serialize(self, to) // the derived one, by `remote = "Self"`
    }
}

impl<'de> Deserialize<'de> for State {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<State, D::Error> {
        let state = State::deserialize(from)?;
        if state.is_shaped() {
            Ok(state)
        } else {
            Err(D::Error::custom("parts of the CMA-ES state do not fit"))
        }
    }
}
