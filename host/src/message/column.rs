//! Byte strings as columns: those that go into a plugin, and those that come out of it.

use bytes::Bytes;
use wasmtime::component::{ComponentType, Lift, Lower};

/// A column of byte strings: item `i` is `data[ends[i - 1]..ends[i]]`, with 0 before the first end.
#[derive(Debug, Default, Clone, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct Column {
    /// The items, one after the other.
    pub data: Vec<u8>,
    /// Where each item ends in `data`, never falling.
    pub ends: Vec<u32>,
}

impl Column {
    /// Appends one item.
    #[inline]
    pub fn push(&mut self, item: &[u8]) {
        self.data.extend_from_slice(item);
        self.ends.push(self.data.len() as u32);
    }

    /// How many items there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no item.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Item `index`; empty where there is none.
    #[inline]
    pub fn get(&self, index: usize) -> &[u8] {
        slice(&self.data, &self.ends, index)
    }

    /// Forgets the items, keeps the memory.
    pub fn clear(&mut self) {
        self.data.clear();
        self.ends.clear();
    }
}

#[inline]
fn slice<'a>(data: &'a [u8], ends: &[u32], index: usize) -> &'a [u8] {
    let Some(&end) = ends.get(index) else { return &[] };
    let start = if index == 0 { 0 } else { ends[index - 1] };
    data.get(start as usize..end as usize).unwrap_or_default()
}

/// A column that came out of a plugin; the same shape as [`Column`], in memory that records can share.
#[derive(Debug, Default, Clone, ComponentType, Lift)]
#[component(record)]
pub struct OutputColumn {
    /// The items, one after the other.
    pub data: Bytes,
    /// Where each item ends; checked before anything else sees the column.
    pub ends: Vec<u32>,
}

impl OutputColumn {
    /// Item `index`; empty where there is none.
    #[inline]
    pub fn get(&self, index: usize) -> &[u8] {
        slice(&self.data, &self.ends, index)
    }

    /// Item `index` in memory that it shares with the column.
    pub fn share(&self, index: usize) -> Bytes {
        self.data.slice_ref(self.get(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_gives_back_its_items() {
        let mut column = Column::default();
        for item in [&b"a"[..], b"", b"bcd"] {
            column.push(item);
        }
        assert_eq!(
            (column.get(0), column.get(1), column.get(2), column.get(3)),
            (&b"a"[..], &b""[..], &b"bcd"[..], &b""[..])
        );
    }
}
