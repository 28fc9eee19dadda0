//! How directions, actions, reasons and kinds of flows are written in output and in records: by
//! their names, shown by `Display` and written and read by serde. For userspace alone.

use core::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::ser::{Serialize, Serializer};

use crate::flow::{FlowKind, Timeout};
use crate::verdict::{Action, Direction, Reason};

macro_rules! written_by_name {
    ($($type:ty),*) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }
    )*};
}

written_by_name!(Direction, Action, Reason, FlowKind, Timeout);

macro_rules! read_by_name {
    ($($type:ty: $all:expr),*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Name;
                impl Visitor<'_> for Name {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("one of its names")
                    }

                    fn visit_str<E: Error>(self, name: &str) -> Result<$type, E> {
                        $all.into_iter()
                            .find(|value| value.name() == name)
                            .ok_or_else(|| E::custom(format_args!("`{name}` is none of its names")))
                    }
                }
                deserializer.deserialize_str(Name)
            }
        }
    )*};
}

// A reason is not read back: some share a name.
read_by_name!(Direction: Direction::BOTH, Action: Action::ALL);

#[cfg(test)]
mod tests {
    extern crate std;

    use std::format;

    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        use serde::de::IntoDeserializer;
        use serde::de::value::{Error, StrDeserializer};

        let read = |name: &'static str| -> StrDeserializer<'_, Error> { name.into_deserializer() };
        for direction in Direction::BOTH {
            let name = direction.name();
            assert_eq!(Direction::deserialize(read(name)), Ok(direction));
            assert_eq!(format!("{direction:>9}"), format!("{name:>9}"));
        }
        for action in Action::ALL {
            assert_eq!(Action::deserialize(read(action.name())), Ok(action));
        }
        assert!(Direction::deserialize(read("accept")).is_err());
        assert!(Action::deserialize(read("")).is_err());
    }
}
