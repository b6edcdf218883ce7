//! The Redis engine before real servers: the contract suite, several nodes, and every way in which Redis fails.

mod contract;
