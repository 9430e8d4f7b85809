//! What an oracle knows of everything that is numbered without gaps, such as log entries: the beginning can be forgotten.

use std::collections::VecDeque;

use quorate_core::mutant::{self, Mutant};

/// Values by numbers that rise by one.
#[derive(Clone, Debug)]
pub struct Track<T> {
    first: u64,
    values: VecDeque<T>,
}

impl<T> Track<T> {
    /// None yet; the first one will have this number.
    #[must_use]
    pub fn new(first: u64) -> Self {
        Self { first, values: VecDeque::new() }
    }

    /// One value, of this number.
    #[must_use]
    pub fn of(first: u64, value: T) -> Self {
        Self { first, values: [value].into() }
    }

    /// The number of the oldest value, or of the first one to come.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The number of the next value.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.first + self.values.len() as u64
    }

    /// The next value.
    pub fn push(&mut self, value: T) {
        self.values.push_back(value);
    }

    /// The value of that number; `None` if there is none yet, or none any more.
    #[must_use]
    pub fn get(&self, number: u64) -> Option<&T> {
        self.values.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// Whether there was a value of that number that is forgotten.
    #[must_use]
    pub fn is_forgotten(&self, number: u64) -> bool {
        number < self.first
    }

    /// The newest value.
    #[must_use]
    pub fn last(&self) -> Option<&T> {
        self.values.back()
    }

    /// The newest value for which `test` holds, and its number.
    #[must_use]
    pub fn rfind(&self, test: impl Fn(&T) -> bool) -> Option<(u64, &T)> {
        let at = match mutant::is_on(Mutant::O30) {
            true => self.values.iter().position(test)?,
            false => self.values.iter().rposition(test)?,
        };
        Some((self.first + at as u64, &self.values[at]))
    }

    /// Forgets all values before that number, but never the newest one.
    pub fn forget(&mut self, before: u64) {
        let before = before.min(self.next().saturating_sub(1)).max(self.first);
        self.values.drain(..usize::try_from(before - self.first).expect("no more than there are"));
        self.first = before;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_when_the_beginning_is_forgotten() {
        let mut track = Track::new(1);
        for value in ["a", "b", "c"] {
            track.push(value);
        }
        track.forget(0);
        assert_eq!((track.get(1), track.is_forgotten(1)), (Some(&"a"), false));
        track.forget(3);
        assert_eq!((track.get(2), track.get(3), track.get(4)), (None, Some(&"c"), None));
        assert!(track.is_forgotten(2) && !track.is_forgotten(3));
        track.forget(9);
        assert_eq!((track.last(), track.next(), track.rfind(|_| true)), (Some(&"c"), 4, Some((3, &"c"))));
    }
}
