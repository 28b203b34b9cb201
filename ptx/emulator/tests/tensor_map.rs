//! Tensor maps against a naive model that goes through a box element by element.

use std::collections::BTreeMap;

use proptest::prelude::*;
use ptx_emulator::tensor_map::{ElementType, MAP_BYTES, Swizzle, TensorMap};

/// Pages of a paged cache as the decode kernels read it: 64 tokens of 576 bf16, boxes of 64 × 64.
fn pages() -> TensorMap {
    TensorMap {
        element: ElementType::Bf16,
        address: 0x7000_0000,
        dims: vec![576, 64, 1, 10],
        strides: vec![1152, 73728, 73728],
        box_dims: vec![64, 64, 1, 1],
        element_strides: vec![1; 4],
        swizzle: Swizzle::Bytes128,
        fill_nan: false,
    }
}

/// For every byte of the box in shared memory, its source.
type Bytes = BTreeMap<u32, Option<u64>>;

fn by_pieces(map: &TensorMap, coordinates: &[i32], destination: u32) -> Bytes {
    let mut bytes = Bytes::new();
    for piece in map.pieces(coordinates, destination).unwrap() {
        assert!(piece.bytes > 0 && piece.bytes % map.element.bytes() == 0);
        assert!(map.swizzle == Swizzle::None || piece.offset % 16 + piece.bytes <= 16);
        for i in 0..piece.bytes {
            let source = piece.source.map(|source| source + u64::from(i));
            assert_eq!(bytes.insert(piece.offset + i, source), None, "written twice");
        }
    }
    bytes
}

/// The same from the definition: one element after the other, dimension 0 fastest.
fn by_elements(map: &TensorMap, coordinates: &[i32], destination: u32) -> Bytes {
    let rank = map.dims.len();
    let step = |d: usize| if d == 0 { 1 } else { map.element_strides[d] };
    let counts: Vec<u32> = (0..rank).map(|d| map.box_dims[d].div_ceil(step(d))).collect();
    let size = map.element.bytes();
    let (line_length, pattern) = match map.swizzle {
        Swizzle::None => (counts[0] * size, 1),
        Swizzle::Bytes32 => (32, 2),
        Swizzle::Bytes64 => (64, 4),
        Swizzle::Bytes128 => (128, 8),
    };
    let mut bytes = Bytes::new();
    for number in 0..counts.iter().product() {
        let (mut rest, mut inside, mut source) = (number, true, map.address as i64);
        for d in 0..rank {
            let coordinate = i64::from(coordinates[d]) + i64::from(rest % counts[d] * step(d));
            rest /= counts[d];
            inside &= coordinate >= 0 && coordinate < map.dims[d] as i64;
            let stride = if d == 0 { i64::from(size) } else { map.strides[d - 1] as i64 };
            source += coordinate * stride;
        }
        for byte in 0..size {
            let (row, column) = (number / counts[0], number % counts[0]);
            let plain = destination + row * line_length + column * size + byte;
            let (line, run) = (plain / 128, plain % 128 / 16);
            let shared = line * 128 + (run ^ (line % pattern)) * 16 + plain % 16;
            bytes.insert(shared, inside.then_some(source as u64 + u64::from(byte)));
        }
    }
    bytes
}

#[test]
fn a_box_of_a_page() {
    // Tile 2 of page 7: token t, 16-byte run c.
    let map = pages();
    let pieces = map.pieces(&[128, 0, 0, 7], 0x2400).unwrap();
    assert_eq!((pieces.len(), map.box_bytes(), map.shared_bytes()), (512, 8192, 8192));
    for (i, piece) in (0u32..).zip(&pieces) {
        let (token, run) = (i / 8, i % 8);
        assert_eq!(piece.offset, 0x2400 + token * 128 + (run ^ (token % 8)) * 16);
        assert_eq!(piece.source, Some(0x7000_0000 + 7 * 73728 + u64::from(token * 1152 + 256 + run * 16)));
        assert_eq!(piece.bytes, 16);
    }
    // A page outside the cache arrives as zeros.
    for page in [10, 2_147_480_000, -1, i32::MIN, i32::MAX] {
        let pieces = map.pieces(&[128, 0, 0, page], 0x2400).unwrap();
        assert!(pieces.iter().all(|piece| piece.source.is_none()));
        assert_eq!(pieces.iter().map(|piece| piece.bytes).sum::<u32>(), map.box_bytes());
    }
}

#[test]
fn edges_divide_rows() {
    // A row of 5 elements of 4 bytes; the box of 8 begins 2 before it.
    let map = TensorMap {
        element: ElementType::F32,
        address: 0x1000,
        dims: vec![5, 3],
        strides: vec![32],
        box_dims: vec![8, 2],
        element_strides: vec![1, 1],
        swizzle: Swizzle::None,
        fill_nan: true,
    };
    let parts: Vec<_> =
        map.pieces(&[-2, 2], 128).unwrap().iter().map(|p| (p.offset, p.bytes, p.source)).collect();
    let expected = [
        (128, 8, None),
        (136, 20, Some(0x1040)),
        (156, 4, None),
        (160, 8, None),
        (168, 20, None),
        (188, 4, None),
    ];
    assert_eq!(parts, expected);
    assert_eq!(map.box_bytes(), 64);
}

#[test]
fn short_swizzled_rows_keep_the_distance_of_the_span() {
    let map = TensorMap { box_dims: vec![16, 3, 1, 1], ..pages() };
    let offsets: Vec<u32> = map.pieces(&[0; 4], 1024).unwrap().iter().map(|p| p.offset - 1024).collect();
    assert_eq!(offsets, [0, 16, 128 + 16, 128, 256 + 32, 256 + 48]);
    assert_eq!((map.box_bytes(), map.shared_bytes()), (96, 288));
}

#[test]
fn element_strides_skip() {
    let mut map = pages();
    map.element_strides = vec![8, 3, 1, 1];
    map.box_dims = vec![64, 8, 1, 1];
    // Tokens 1, 4 and 7; all elements in dimension 0, whose stride is ignored.
    let bytes = by_pieces(&map, &[0, 1, 0, 0], 1024);
    let first = [0, 1, 2].map(|row| bytes[&(1024 + row * 128 + row * 16)]);
    assert_eq!(first, [1, 4, 7].map(|token| Some(0x7000_0000 + token * 1152)));
    assert_eq!((bytes.len(), map.box_bytes()), (384, 384));
}

#[test]
fn fill_is_zero_or_nan() {
    let fill = |element, fill_nan| TensorMap { element, fill_nan, ..pages() }.fill();
    assert_eq!(fill(ElementType::Bf16, false), [0; 16]);
    for element in [ElementType::F16, ElementType::Bf16] {
        assert_eq!(fill(element, true), std::array::from_fn(|i| [0xf7, 0x7f][i % 2]));
    }
    let words = fill(ElementType::Tf32, true);
    assert!(words.as_chunks::<4>().0.iter().all(|word| f32::from_le_bytes(*word).is_nan()));
    let doubles = fill(ElementType::F64, true);
    assert!(doubles.as_chunks::<8>().0.iter().all(|double| f64::from_le_bytes(*double).is_nan()));
}

#[test]
fn each_constraint_names_its_field() {
    type Break = fn(&mut TensorMap);
    let cases: [(&str, Break); 25] = [
        ("the number of dims", |m| m.dims.clear()),
        ("the number of dims", |m| m.dims = vec![16; 6]),
        ("the number of strides", |m| m.strides.truncate(2)),
        ("the number of box_dims", |m| m.box_dims.push(1)),
        ("the number of element_strides", |m| m.element_strides.truncate(1)),
        ("address", |m| m.address += 8),
        ("dims[0]", |m| m.dims[0] = 0),
        ("dims[3]", |m| m.dims[3] = (1 << 32) + 1),
        ("strides[0]", |m| m.strides[0] = 1144),
        ("strides[2]", |m| m.strides[2] = 1 << 40),
        ("box_dims[1]", |m| m.box_dims[1] = 0),
        ("box_dims[1]", |m| m.box_dims[1] = 257),
        ("box_dims[3]", |m| m.box_dims[3] = u32::MAX),
        ("element_strides[2]", |m| m.element_strides[2] = 0),
        ("element_strides[0]", |m| m.element_strides[0] = 9),
        ("box_dims[0]", |m| m.box_dims[0] = 60),
        ("box_dims[0]", |m| m.box_dims[0] = 72),
        ("box_dims[0]", |m| m.element = ElementType::F32),
        ("box_dims[0]", |m| m.swizzle = Swizzle::Bytes64),
        ("box_dims[0]", |m| {
            m.swizzle = Swizzle::Bytes32;
            m.box_dims[0] = 24;
        }),
        ("the box", |m| m.box_dims = vec![64, 256, 8, 1]),
        ("the box", |m| {
            m.swizzle = Swizzle::None;
            m.box_dims = vec![256; 4];
        }),
        ("fill_nan", |m| {
            m.element = ElementType::U16;
            m.fill_nan = true;
        }),
        ("strides[1]", |m| m.strides[1] = u64::MAX),
        ("dims[1]", |m| m.dims[1] = u64::MAX),
    ];
    assert_eq!(pages().validate(), Ok(()));
    for (field, break_it) in cases {
        let mut map = pages();
        break_it(&mut map);
        let error = map.validate().unwrap_err();
        assert_eq!(error.field, field, "{error}");
        assert_eq!(map.encode(), Err(error.clone()));
        assert_eq!(map.pieces(&[0; 4], 1024), Err(error));
    }
    let error = pages().pieces(&[0; 3], 1024).unwrap_err();
    assert_eq!(error.to_string(), "tensor map: the number of coordinates is 3; needed is 4 for its dims");
    assert_eq!(pages().pieces(&[0; 4], 1024 + 64).unwrap_err().field, "the address in shared memory");
}

#[test]
fn limits_are_allowed() {
    let mut map = pages();
    map.dims = vec![1 << 32, 1, 1, 1 << 32];
    map.strides = vec![(1 << 40) - 16, 0, 16];
    map.element_strides = vec![8, 8, 1, 8];
    assert_eq!(map.validate(), Ok(()));
    assert_eq!(TensorMap::decode(&bytes_of(&map)), Ok(map.clone()));
    assert!(map.pieces(&[i32::MAX, 0, 0, i32::MAX], 0xffff_ff80).is_ok());
}

fn bytes_of(map: &TensorMap) -> [u8; MAP_BYTES] {
    let words = map.encode().unwrap();
    std::array::from_fn(|i| words[i / 8].to_le_bytes()[i % 8])
}

/// A valid map of a small tensor and coordinates near it.
fn small_map() -> impl Strategy<Value = (TensorMap, Vec<i32>)> {
    let shape = (1..=5usize, 0..ElementType::ALL.len(), 0..4usize, 1..=8u32, any::<bool>());
    shape.prop_flat_map(|(rank, element, swizzle, runs, fill_nan)| {
        let (element, swizzle) = (ElementType::ALL[element], Swizzle::ALL[swizzle]);
        let longest = if swizzle == Swizzle::None { 8 } else { swizzle.span() / 16 };
        let inner = (runs - 1) % longest + 1;
        (
            (0..1u64 << 40, prop::collection::vec(1..20u64, rank), prop::collection::vec(1..64u64, rank - 1)),
            (prop::collection::vec(1..=5u32, rank), prop::collection::vec(1..=8u32, rank)),
            prop::collection::vec(-12..24i32, rank),
        )
            .prop_map(
                move |((address, dims, strides), (mut box_dims, element_strides), coordinates)| {
                    box_dims[0] = inner * 16 / element.bytes();
                    let map = TensorMap {
                        element,
                        address: address * 16,
                        dims,
                        strides: strides.into_iter().map(|stride| stride * 16).collect(),
                        box_dims,
                        element_strides,
                        swizzle,
                        fill_nan: fill_nan && element.nan().is_some(),
                    };
                    (map, coordinates)
                },
            )
    })
}

proptest! {
    #[test]
    fn pieces_are_the_elements((map, coordinates) in small_map(), line in 0..64u32) {
        let bytes = by_pieces(&map, &coordinates, line * 128);
        prop_assert_eq!(&bytes, &by_elements(&map, &coordinates, line * 128));
        prop_assert_eq!(bytes.len() as u32, map.box_bytes());
        let end = line * 128 + map.shared_bytes();
        prop_assert!(map.swizzle != Swizzle::None || bytes.keys().next_back() == Some(&(end - 1)));
    }

    #[test]
    fn encoding_keeps_everything((map, _) in small_map()) {
        prop_assert_eq!(TensorMap::decode(&bytes_of(&map)), Ok(map));
    }

    #[test]
    fn damaged_encodings_are_refused_or_valid((map, _) in small_map(), at in 0..MAP_BYTES, value: u8) {
        let mut bytes = bytes_of(&map);
        bytes[at] = value;
        if let Ok(decoded) = TensorMap::decode(&bytes) {
            prop_assert_eq!(bytes_of(&decoded), bytes);
        }
    }

    #[test]
    fn random_bytes_are_refused(bytes: [u8; 32], magic: bool) {
        let mut whole: [u8; MAP_BYTES] = std::array::from_fn(|i| bytes[i % 32]);
        if magic {
            whole[..8].copy_from_slice(&bytes_of(&pages())[..8]);
        }
        let error = TensorMap::decode(&whole).unwrap_err();
        prop_assert_eq!(error.field == "the first word", !magic);
    }
}
