//! What long-running commands are told: by files, by the text of `WEFT_CONFIG` and by flags, each over the one before.

use agent::DefinitionSource;
use wire::decode::{DecodeError, Fields};

use super::config_file::{self, ConfigFile};

/// Is something that may be said in several places, of which one counts.
pub(super) trait Told: Sized {
    /// Keeps what `over` says, and fills up with what this says.
    fn under(self, over: Self) -> Self;
}

impl<T> Told for Option<T> {
    fn under(self, over: Self) -> Self {
        over.or(self)
    }
}

impl<T> Told for Vec<T> {
    fn under(self, over: Self) -> Self {
        if over.is_empty() { self } else { over }
    }
}

impl Told for bool {
    fn under(self, over: Self) -> Self {
        over || self
    }
}

/// Is all that a command can be told.
pub(super) trait Settings: Told + Default {
    /// Is what they are called in files, in no order.
    #[cfg(test)]
    fn names() -> Vec<&'static str>;

    /// Reads what a file says.
    fn read(fields: &mut Fields) -> Result<Self, DecodeError>;
}

/// Says once how each field of a struct of settings is read from a file: by which of [`Fields`]' methods, under its own name.
///
/// `flags` are off unless somebody says otherwise; `within` are settings of their own; `also` names fields that a function reads by
/// itself, with the names that it takes.
macro_rules! settings {
    (
        $settings:ident:
        flags { $($flag:ident),* $(,)? }
        $(within { $($inner:ident: $type:ty),* $(,)? })?
        also { $($other:ident [$($name:literal),*] = $read:expr),* $(,)? }
        $($kind:ident { $($field:ident),+ $(,)? })+
    ) => {
        impl $crate::cli::settings::Told for $settings {
            fn under(self, over: Self) -> Self {
                use $crate::cli::settings::Told;
                Self {
                    $($flag: Told::under(self.$flag, over.$flag),)*
                    $($($inner: Told::under(self.$inner, over.$inner),)*)?
                    $($other: Told::under(self.$other, over.$other),)*
                    $($($field: Told::under(self.$field, over.$field),)+)+
                }
            }
        }

        impl $crate::cli::settings::Settings for $settings {
            #[cfg(test)]
            fn names() -> Vec<&'static str> {
                let own = vec![$(stringify!($flag),)* $($($name,)*)* $($(stringify!($field),)+)+];
                own.into_iter()$($(.chain(<$type as $crate::cli::settings::Settings>::names()))*)?.collect()
            }

            fn read(fields: &mut wire::decode::Fields) -> Result<Self, wire::decode::DecodeError> {
                Ok(Self {
                    $($flag: fields.flag(stringify!($flag))?.unwrap_or(false),)*
                    $($($inner: <$type as $crate::cli::settings::Settings>::read(fields)?,)*)?
                    $($other: $read(fields)?,)*
                    $($($field: fields.$kind(stringify!($field))?,)+)+
                })
            }
        }
    };
}
pub(super) use settings;

/// Reads settings, later ones over earlier ones; what stands beside them under one of these names is left to others.
pub(super) fn read_all<S: Settings>(sources: &[DefinitionSource], beside: &[&str]) -> anyhow::Result<S> {
    config_file::expand(sources)?.iter().try_fold(S::default(), |settings, source| {
        Ok(settings.under(ConfigFile::of(source)?.without(beside).fields(S::read)?))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Checks that a table of the manual, which follows `heading`, names the settings that there are.
    #[track_caller]
    fn check<S: Settings>(heading: &str) {
        let manual = include_str!("../../docs/settings.md");
        let (_, table) = manual.split_once(heading).unwrap_or_else(|| panic!("{heading} is in the manual"));
        let rows = table.trim_start().lines().take_while(|line| line.starts_with('|'));
        let told: BTreeSet<&str> =
            rows.skip(2).flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2)).collect();
        assert_eq!(told, S::names().into_iter().collect(), "{heading}");
    }

    #[test]
    fn the_manual_tells_of_every_setting_and_of_no_other() {
        check::<super::super::server::Settings>("\nServers:\n");
        check::<super::super::agent::Settings>("\nAgents:\n");
    }

    #[test]
    fn what_is_said_later_counts_and_what_it_leaves_out_stays() {
        assert_eq!(Some(1).under(Some(2)), Some(2));
        assert_eq!(Some(1).under(None), Some(1));
        assert_eq!(vec![1, 2].under(vec![3]), [3]);
        assert_eq!(vec![1, 2].under(vec![]), [1, 2]);
        assert!(true.under(false), "a flag that was said stays said");
    }
}
