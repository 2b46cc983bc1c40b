pub use super::local::backend::MemoryBackend;

#[cfg(test)]
mod tests;
