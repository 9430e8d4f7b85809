/// Notes that a rare branch was taken, see `reach.rs`; with a condition, whether it holds.
macro_rules! reach {
    ($mark:ident) => {
        $crate::reach::hit($crate::reach::Mark::$mark)
    };
    ($mark:ident if $condition:expr) => {
        if $crate::reach::COUNTED && $condition {
            $crate::reach::hit($crate::reach::Mark::$mark);
        }
    };
}

/// Declares newtypes over the integers etcd's protobuf uses: `Display` is the number, order is numeric.
macro_rules! unit {
    ($($(#[$doc:meta])* $name:ident($int:ty))*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode)]
        pub struct $name(pub $int);

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                core::fmt::Display::fmt(&self.0, f)
            }
        }

        impl $name {
            /// The value after this one. Panics at the integer's end, which no live system reaches.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("a counter that grows by one never reaches its end"))
            }
        }
    )*};
}
