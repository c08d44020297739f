//! The connections themselves, read when somebody asks and never kept.

pub mod filter;
