//! Arithmetic on rows.

use super::InterpretError;
use crate::{Columns, RopeTable};
use knapsack_tensor::NormKind;

/// Rows of floats, dense.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Matrix {
    pub(super) columns: usize,
    pub(super) data: Vec<f32>,
}

impl Matrix {
    pub(super) fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.data.chunks_exact(self.columns.max(1))
    }

    fn from_rows(columns: usize, rows: impl Iterator<Item = Vec<f32>>) -> Self {
        Matrix { columns, data: rows.flatten().collect() }
    }

    pub(super) fn gather(&self, tokens: &[u32]) -> Result<Matrix, InterpretError> {
        let mut data = Vec::with_capacity(tokens.len() * self.columns);
        for &token in tokens {
            let row = self.rows().nth(token as usize);
            data.extend_from_slice(row.ok_or(InterpretError::Token { token, vocab: self.rows().len() as u32 })?);
        }
        Ok(Matrix { columns: self.columns, data })
    }

    /// `self other^T`.
    pub(super) fn times_transposed(&self, other: &Matrix) -> Matrix {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
        let product = self.rows().flat_map(|row| other.rows().map(move |column| dot(row, column)));
        Matrix { columns: other.rows().len(), data: product.collect() }
    }

    pub(super) fn map(&self, f: impl Fn(f32) -> f32) -> Matrix {
        Matrix { columns: self.columns, data: self.data.iter().map(|&x| f(x)).collect() }
    }

    pub(super) fn zip(&self, other: &Matrix, f: impl Fn(f32, f32) -> f32) -> Matrix {
        Matrix { columns: self.columns, data: self.data.iter().zip(&other.data).map(|(&a, &b)| f(a, b)).collect() }
    }

    pub(super) fn plus_row(&self, row: &[f32]) -> Matrix {
        let sum = |x: &[f32]| x.iter().zip(row).map(|(a, b)| a + b).collect();
        Matrix::from_rows(self.columns, self.rows().map(sum))
    }

    pub(super) fn slice(&self, columns: &Columns) -> Matrix {
        let Columns { start, width, count, stride } = *columns;
        let indices: Vec<usize> =
            (0..count).flat_map(|i| (0..width).map(move |j| (start + i * stride + j) as usize)).collect();
        Matrix::from_rows(indices.len(), self.rows().map(|row| indices.iter().map(|&index| row[index]).collect()))
    }

    /// Normalizes groups of `width` columns; weights repeat where they are shorter than a row.
    pub(super) fn normed(
        &self,
        kind: NormKind,
        epsilon: f32,
        width: usize,
        weight: Option<&[f32]>,
        bias: Option<&[f32]>,
    ) -> Matrix {
        let group = |(index, x): (usize, &[f32])| {
            let mean = |sum: f32| sum / width as f32;
            let center = match kind {
                NormKind::Rms => 0.0,
                NormKind::Layer => mean(x.iter().sum()),
            };
            let variance = mean(x.iter().map(|x| (x - center) * (x - center)).sum());
            let scale = 1.0 / (variance + epsilon).sqrt();
            let at = |list: Option<&[f32]>, column: usize, default: f32| {
                list.map_or(default, |list| list[(index * width + column) % list.len()])
            };
            let value = |(j, x): (usize, &f32)| (x - center) * scale * at(weight, j, 1.0) + at(bias, j, 0.0);
            x.iter().enumerate().map(value).collect::<Vec<_>>()
        };
        let row = |row: &[f32]| row.chunks_exact(width).enumerate().flat_map(group).collect();
        Matrix::from_rows(self.columns, self.rows().map(row))
    }

    /// Rotates the first `rotary` elements of each head by the angle of each row's position.
    pub(super) fn rotated(&self, table: &RopeTable, position: u32, head_dim: usize, rotary: usize) -> Matrix {
        let half = rotary / 2;
        let mut result = self.clone();
        for (t, row) in result.data.chunks_exact_mut(self.columns).enumerate() {
            let growth = table.growth.map_or(1.0, |growth| growth.at(position + t as u32));
            let magnitude = table.magnitude * growth;
            for head in row.chunks_exact_mut(head_dim) {
                for (i, frequency) in table.frequencies.iter().enumerate() {
                    let angle = (position + t as u32) as f32 * frequency;
                    let (sin, cos) = (angle.sin() * magnitude, angle.cos() * magnitude);
                    let (a, b) = (head[i], head[i + half]);
                    head[i] = a * cos - b * sin;
                    head[i + half] = b * cos + a * sin;
                }
            }
        }
        result
    }
}
