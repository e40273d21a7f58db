//! Where an evaluator computes, by the names of the run file and the command line.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// The processor: `cpu`.
    #[default]
    Cpu,
    /// NVIDIA's GPU of this number: `cuda`, which is the first, or `cuda:N`.
    Cuda(usize),
    /// Apple's GPU: `metal`.
    Metal,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let none = || format!("\"{name}\" is none of: cpu, cuda, cuda:N, metal");
        match name {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            "metal" => Ok(Self::Metal),
            other => {
                let number = other.strip_prefix("cuda:").ok_or_else(none)?;
                number.parse().map(Self::Cuda).map_err(|_| none())
            }
        }
    }
}

impl TryFrom<String> for Device {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for (name, device, full) in [
            ("cpu", Device::Cpu, "cpu"),
            ("cuda", Device::Cuda(0), "cuda:0"),
            ("cuda:3", Device::Cuda(3), "cuda:3"),
            ("metal", Device::Metal, "metal"),
        ] {
            assert_eq!(name.parse(), Ok(device));
            assert_eq!(device.to_string(), full);
        }
        for wrong in ["gpu", "cuda:", "cuda:x", "cuda:-1", "metal:1", "candle-cpu", ""] {
            let text = wrong.parse::<Device>().unwrap_err();
            assert_eq!(text, format!("\"{wrong}\" is none of: cpu, cuda, cuda:N, metal"));
        }
    }
}
