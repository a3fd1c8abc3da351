"""What runs on the GPU for ``swindow.kernels.triton``: one program per window, head and block of tokens.

Letters are those of ``swindow.windows``; i counts queries, j keys. Per axis: grid G, padded grid P, window W, shift S.
"""

import os

import triton
import triton.language as tl

SIZES = ("G0", "G1", "G2", "P0", "P1", "P2", "total")  # one compiled kernel serves maps of all sizes
SMALLEST = tl.constexpr(1e-24)  # of a squared length, as in models.attention.ScaledCosine
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")  # there bf16 is bits, multiplied as integers


@triton.jit
def _axis(window, i, G, P, W: tl.constexpr, S: tl.constexpr):
    """On one axis, for token ``i`` of a window: where it comes from, whether that is padding, and its region."""
    rolled = window * W + i
    source = (rolled + S) % P  # the token at i came from i + s
    region = i * 0
    if S > 0:
        region += (rolled >= P - W).to(tl.int32) + (rolled >= P - S).to(tl.int32)
    return source, source >= G, region


@triton.jit
def _tokens(
    window, i,
    G0, G1, G2, P0, P1, P2,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, S0: tl.constexpr, S1: tl.constexpr, S2: tl.constexpr,
    PADS: tl.constexpr, MASK_PADDING: tl.constexpr,
):  # fmt: skip
    """For tokens ``i`` of a window: their row on the grid, whether they are padding, and their region."""
    C1 = P1 // W1
    C2 = P2 // W2
    s0, pad0, r0 = _axis(window // (C1 * C2), i // (W1 * W2), G0, P0, W0, S0)
    s1, pad1, r1 = _axis(window // C2 % C1, i // W2 % W1, G1, P1, W1, S1)
    s2, pad2, r2 = _axis(window % C2, i % W2, G2, P2, W2, S2)
    pad = (pad0 | pad1 | pad2) if PADS else i < 0
    region = (r0 * 3 + r1) * 3 + r2
    if PADS and MASK_PADDING:
        region = tl.where(pad, 27, region)
    return (s0 * G1 + s1) * G2 + s2, pad, region


@triton.jit
def _load(
    t, padding, row, pad, inside, part, PADS: tl.constexpr, H: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Queries, keys or values (part 0, 1, 2, times C, plus the head's place) of tokens: (BLOCK, BLOCK_D)."""
    e = tl.arange(0, BLOCK_D)[None, :]
    inside = inside[:, None] & (e < D)
    x = tl.load(t + row[:, None] * (3 * H * D) + part + e, mask=inside & ~pad[:, None], other=0.0)
    if PADS:
        x = tl.where(pad[:, None], tl.load(padding + part + e, mask=inside & pad[:, None], other=0.0), x)
    return x


@triton.jit
def _load_grid(x, row, pad, inside, place, H: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """What stands on the grid (L, C) for tokens, 0 for padding: (BLOCK, BLOCK_D)."""
    e = tl.arange(0, BLOCK_D)[None, :]
    return tl.load(x + row[:, None] * (H * D) + place + e, mask=(inside & ~pad)[:, None] & (e < D), other=0.0)


@triton.jit
def _store(x, row, there, place, d, WIDTH: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Writes (BLOCK, BLOCK_D) to the rows (L, WIDTH) of the grid on which tokens stand."""
    e = tl.arange(0, BLOCK_D)[None, :]
    tl.store(x + row[:, None] * WIDTH + place + e, d.to(x.dtype.element_ty), mask=there[:, None] & (e < D))


@triton.jit
def _add_up(x, chosen, d, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Adds the chosen ones of (BLOCK, BLOCK_D) to one vector, at the same time as other programs."""
    e = tl.arange(0, BLOCK_D)
    tl.atomic_add(x + e, tl.sum(tl.where(chosen[:, None], d, 0.0), 0), mask=e < D)


@triton.jit
def _dot(a, b):
    """The matrix product in fp32."""
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _shrink(x):
    """One over the length of each vector: (BLOCK, 1)."""
    x = x.to(tl.float32)
    return 1 / tl.sqrt(tl.maximum(tl.sum(x * x, 1), SMALLEST))[:, None]


@triton.jit
def _through_unit(d, unit, shrink):
    """The gradient of a vector from that of its unit vector (of one that was too short to be made one, too)."""
    along = tl.sum(d * unit, 1)[:, None] * tl.sum(unit * unit, 1)[:, None]
    return shrink * (d - tl.where(shrink * shrink * SMALLEST < 1, along, 0.0) * unit)


@triton.jit
def _load_bias(bias, i, j, N: tl.constexpr):
    """The bias of one head; its rows are filled up to multiples of 16 numbers, so that four at a time are read."""
    WIDTH: tl.constexpr = (N + 15) // 16 * 16
    place = bias + i[:, None] * WIDTH + j[None, :]
    return tl.load(place, mask=(i < N)[:, None] & (j < WIDTH)[None, :], other=0.0)


@triton.jit
def _add_bias(d_bias, i, j, added, N: tl.constexpr):
    """Adds to the gradient of the bias of one head, at the same time as other programs."""
    WIDTH: tl.constexpr = (N + 15) // 16 * 16
    tl.atomic_add(d_bias + i[:, None] * WIDTH + j[None, :], added, mask=(i < N)[:, None] & (j < N)[None, :])


@triton.jit
def _logits(q, k, scale, bias, i, j, region_i, region_j, N: tl.constexpr):
    """scale QK^T + B with -inf where tokens are apart, and QK^T; rows past the window attend to all of it."""
    inside_i, inside_j = (i < N)[:, None], (j < N)[None, :]
    b = _load_bias(bias, i, j, N)
    product = _dot(q, tl.trans(k))
    together = (region_i[:, None] == region_j[None, :]) | ~inside_i
    return tl.where(inside_j & together, product * scale + b, float("-inf")), product


@triton.jit(do_not_specialize=SIZES[:6])
def forward(
    t, padding, bias, scale, out, lse,
    G0, G1, G2, P0, P1, P2,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, S0: tl.constexpr, S1: tl.constexpr, S2: tl.constexpr,
    PADS: tl.constexpr, MASK_PADDING: tl.constexpr,
    COSINE: tl.constexpr, H: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One block of queries of one window and head."""
    N: tl.constexpr = W0 * W1 * W2
    L = G0 * G1 * G2
    NW = (P0 // W0) * (P1 // W1) * (P2 // W2)
    BLOCKS: tl.constexpr = (N + BLOCK - 1) // BLOCK
    window, first = tl.program_id(0) // BLOCKS, tl.program_id(0) % BLOCKS * BLOCK
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    t += image * (L * 3 * H * D)
    bias += head * (N * ((N + 15) // 16 * 16))
    i = first + tl.arange(0, BLOCK)
    row_i, pad_i, region_i = _tokens(window, i, G0, G1, G2, P0, P1, P2, W0, W1, W2, S0, S1, S2, PADS, MASK_PADDING)
    q = _load(t, padding, row_i, pad_i, i < N, head * D, PADS, H, D, BLOCK_D)
    if COSINE:
        q = (q.to(tl.float32) * _shrink(q)).to(t.dtype.element_ty)
    factor = tl.load(scale + head)
    top = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    o = tl.zeros((BLOCK, BLOCK_D), tl.float32)
    for start in range(0, N, BLOCK):
        j = start + tl.arange(0, BLOCK)
        row_j, pad_j, region_j = _tokens(window, j, G0, G1, G2, P0, P1, P2, W0, W1, W2, S0, S1, S2, PADS, MASK_PADDING)
        k = _load(t, padding, row_j, pad_j, j < N, (H + head) * D, PADS, H, D, BLOCK_D)
        v = _load(t, padding, row_j, pad_j, j < N, (2 * H + head) * D, PADS, H, D, BLOCK_D)
        if COSINE:
            k = (k.to(tl.float32) * _shrink(k)).to(t.dtype.element_ty)
        s, _ = _logits(q, k, factor, bias, i, j, region_i, region_j, N)
        higher = tl.maximum(top, tl.max(s, 1))
        finite = tl.where(higher == float("-inf"), 0.0, higher)
        p = tl.exp(s - finite[:, None])
        shrunk = tl.exp(top - finite)
        total = total * shrunk + tl.sum(p, 1)
        o = o * shrunk[:, None] + _dot(p.to(v.dtype), v)
        top = higher
    _store(out + image * (L * H * D), row_i, (i < N) & ~pad_i, head * D, o / total[:, None], H * D, D, BLOCK_D)
    tl.store(lse + ((image * NW + window) * H + head) * N + i, top + tl.log(total), mask=i < N)


@triton.jit
def _d_logits(
    t, padding, bias, factor, out, lse, d_out, window, head, i, j,
    G0, G1, G2, P0, P1, P2,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, S0: tl.constexpr, S1: tl.constexpr, S2: tl.constexpr,
    PADS: tl.constexpr, MASK_PADDING: tl.constexpr,
    COSINE: tl.constexpr, H: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """For a block of queries and one of keys: probabilities, the gradient of their logits, and what they come of.

    Returns p, d_logits (BLOCK, BLOCK); q, k (unit vectors for cosines); d_o (BLOCK, BLOCK_D); their part in the
    gradient of the scale.
    """
    N: tl.constexpr = W0 * W1 * W2
    row_i, pad_i, region_i = _tokens(window, i, G0, G1, G2, P0, P1, P2, W0, W1, W2, S0, S1, S2, PADS, MASK_PADDING)
    row_j, pad_j, region_j = _tokens(window, j, G0, G1, G2, P0, P1, P2, W0, W1, W2, S0, S1, S2, PADS, MASK_PADDING)
    q = _load(t, padding, row_i, pad_i, i < N, head * D, PADS, H, D, BLOCK_D)
    k = _load(t, padding, row_j, pad_j, j < N, (H + head) * D, PADS, H, D, BLOCK_D)
    v = _load(t, padding, row_j, pad_j, j < N, (2 * H + head) * D, PADS, H, D, BLOCK_D)
    if COSINE:
        q = (q.to(tl.float32) * _shrink(q)).to(t.dtype.element_ty)
        k = (k.to(tl.float32) * _shrink(k)).to(t.dtype.element_ty)
    HEAD: tl.constexpr = N * ((N + 15) // 16 * 16)
    s, product = _logits(q, k, factor, bias + head * HEAD, i, j, region_i, region_j, N)
    peak = tl.load(lse + (window * H + head) * N + i, mask=i < N, other=float("inf"))
    p = tl.exp(s - peak[:, None])
    o = _load_grid(out, row_i, pad_i, i < N, head * D, H, D, BLOCK_D)
    d_o = _load_grid(d_out, row_i, pad_i, i < N, head * D, H, D, BLOCK_D)
    d_p = _dot(d_o, tl.trans(v))
    mean = tl.sum(o.to(tl.float32) * d_o.to(tl.float32), 1)
    d_s = p * (d_p - mean[:, None])
    d_factor = tl.sum(d_s * product, 1) if COSINE else mean * 0.0  # (BLOCK,), in fp32: the sum cancels
    return p, d_s, q, k, d_o, d_factor


@triton.jit
def _end_queries(
    t, padding, d_t, d_q, factor, row, pad, inside, head,
    PADS: tl.constexpr, COSINE: tl.constexpr, H: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Writes the gradient of queries from that of the scaled ones."""
    d_q *= factor
    if COSINE:
        q = _load(t, padding, row, pad, inside, head * D, PADS, H, D, BLOCK_D)
        shrink = _shrink(q)
        d_q = _through_unit(d_q, q.to(tl.float32) * shrink, shrink)
    _store(d_t, row, inside & ~pad, head * D, d_q, 3 * H * D, D, BLOCK_D)


@triton.jit
def _end_keys(
    t, padding, d_t, d_padding, d_k, d_v, factor, row, pad, inside, head,
    PADS: tl.constexpr, MASK_PADDING: tl.constexpr,
    COSINE: tl.constexpr, H: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Writes the gradients of keys and values; those of padding are added up."""
    d_k *= factor
    if COSINE:
        k = _load(t, padding, row, pad, inside, (H + head) * D, PADS, H, D, BLOCK_D)
        shrink = _shrink(k)
        d_k = _through_unit(d_k, k.to(tl.float32) * shrink, shrink)
    _store(d_t, row, inside & ~pad, (H + head) * D, d_k, 3 * H * D, D, BLOCK_D)
    _store(d_t, row, inside & ~pad, (2 * H + head) * D, d_v, 3 * H * D, D, BLOCK_D)
    if PADS and not MASK_PADDING:
        _add_up(d_padding + (H + head) * D, inside & pad, d_k, D, BLOCK_D)
        _add_up(d_padding + (2 * H + head) * D, inside & pad, d_v, D, BLOCK_D)


@triton.jit(do_not_specialize=SIZES[:6])
def backward_queries(
    t, padding, bias, scale, out, lse, d_out, d_t, d_scale,
    G0, G1, G2, P0, P1, P2,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, S0: tl.constexpr, S1: tl.constexpr, S2: tl.constexpr,
    PADS: tl.constexpr, MASK_PADDING: tl.constexpr,
    COSINE: tl.constexpr, H: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The gradient of one block of queries of one window and head, and its part in that of the scale."""
    N: tl.constexpr = W0 * W1 * W2
    L = G0 * G1 * G2
    NW = (P0 // W0) * (P1 // W1) * (P2 // W2)
    BLOCKS: tl.constexpr = (N + BLOCK - 1) // BLOCK
    window, first = tl.program_id(0) // BLOCKS, tl.program_id(0) % BLOCKS * BLOCK
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    t += image * (L * 3 * H * D)
    d_t += image * (L * 3 * H * D)
    out += image * (L * H * D)
    d_out += image * (L * H * D)
    lse += image * (NW * H * N)
    i = first + tl.arange(0, BLOCK)
    factor = tl.load(scale + head)
    d_q = tl.zeros((BLOCK, BLOCK_D), tl.float32)
    d_factor = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, N, BLOCK):
        j = start + tl.arange(0, BLOCK)
        _, d_s, _, k, _, part = _d_logits(
            t, padding, bias, factor, out, lse, d_out, window, head, i, j,
            G0, G1, G2, P0, P1, P2, W0, W1, W2, S0, S1, S2, PADS, MASK_PADDING, COSINE, H, D, BLOCK, BLOCK_D
        )  # fmt: skip
        d_q += _dot(d_s.to(k.dtype), k)
        d_factor += part
    row_i, pad_i, _ = _tokens(window, i, G0, G1, G2, P0, P1, P2, W0, W1, W2, S0, S1, S2, PADS, MASK_PADDING)
    _end_queries(t, padding, d_t, d_q, factor, row_i, pad_i, i < N, head, PADS, COSINE, H, D, BLOCK_D)
    if COSINE:
        tl.atomic_add(d_scale + head, tl.sum(d_factor, 0))


@triton.jit(do_not_specialize=SIZES[:6])
def backward_keys(
    t, padding, bias, scale, out, lse, d_out, d_t, d_padding,
    G0, G1, G2, P0, P1, P2,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, S0: tl.constexpr, S1: tl.constexpr, S2: tl.constexpr,
    PADS: tl.constexpr, MASK_PADDING: tl.constexpr,
    COSINE: tl.constexpr, H: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The gradients of one block of keys and values of one window and head; those of padding are added up."""
    N: tl.constexpr = W0 * W1 * W2
    L = G0 * G1 * G2
    NW = (P0 // W0) * (P1 // W1) * (P2 // W2)
    BLOCKS: tl.constexpr = (N + BLOCK - 1) // BLOCK
    window, first = tl.program_id(0) // BLOCKS, tl.program_id(0) % BLOCKS * BLOCK
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    t += image * (L * 3 * H * D)
    d_t += image * (L * 3 * H * D)
    out += image * (L * H * D)
    d_out += image * (L * H * D)
    lse += image * (NW * H * N)
    j = first + tl.arange(0, BLOCK)
    factor = tl.load(scale + head)
    d_k = tl.zeros((BLOCK, BLOCK_D), tl.float32)
    d_v = tl.zeros((BLOCK, BLOCK_D), tl.float32)
    for start in range(0, N, BLOCK):
        i = start + tl.arange(0, BLOCK)
        p, d_s, q, _, d_o, _ = _d_logits(
            t, padding, bias, factor, out, lse, d_out, window, head, i, j,
            G0, G1, G2, P0, P1, P2, W0, W1, W2, S0, S1, S2, PADS, MASK_PADDING, COSINE, H, D, BLOCK, BLOCK_D
        )  # fmt: skip
        d_k += _dot(tl.trans(d_s).to(q.dtype), q)
        d_v += _dot(tl.trans(p).to(d_o.dtype), d_o)
    row_j, pad_j, _ = _tokens(window, j, G0, G1, G2, P0, P1, P2, W0, W1, W2, S0, S1, S2, PADS, MASK_PADDING)
    _end_keys(
        t, padding, d_t, d_padding, d_k, d_v, factor, row_j, pad_j, j < N, head,
        PADS, MASK_PADDING, COSINE, H, D, BLOCK_D
    )  # fmt: skip


@triton.jit(do_not_specialize=SIZES)
def backward_bias(
    t, padding, bias, scale, out, lse, d_out, d_bias, total, CHUNK: tl.constexpr,
    G0, G1, G2, P0, P1, P2,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, S0: tl.constexpr, S1: tl.constexpr, S2: tl.constexpr,
    PADS: tl.constexpr, MASK_PADDING: tl.constexpr,
    COSINE: tl.constexpr, H: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The part that CHUNK windows have in the gradient of the bias, for a block of queries and one of keys."""
    N: tl.constexpr = W0 * W1 * W2
    L = G0 * G1 * G2
    NW = (P0 // W0) * (P1 // W1) * (P2 // W2)
    BLOCKS: tl.constexpr = (N + BLOCK - 1) // BLOCK
    i = tl.program_id(0) // BLOCKS * BLOCK + tl.arange(0, BLOCK)
    j = tl.program_id(0) % BLOCKS * BLOCK + tl.arange(0, BLOCK)
    head = tl.program_id(1)
    factor = tl.load(scale + head)
    added = tl.zeros((BLOCK, BLOCK), tl.float32)
    for c in range(CHUNK):
        number = tl.program_id(2) * CHUNK + c
        last = tl.minimum(number, total - 1)  # past the last window the last is read again, and not added
        image, window = (last // NW).to(tl.int64), last % NW
        _, d_s, _, _, _, _ = _d_logits(
            t + image * (L * 3 * H * D), padding, bias, factor, out + image * (L * H * D), lse + image * (NW * H * N),
            d_out + image * (L * H * D), window, head, i, j,
            G0, G1, G2, P0, P1, P2, W0, W1, W2, S0, S1, S2, PADS, MASK_PADDING, COSINE, H, D, BLOCK, BLOCK_D
        )  # fmt: skip
        added += tl.where(number < total, d_s, 0.0)
    _add_bias(d_bias + head * (N * ((N + 15) // 16 * 16)), i, j, added, N)


@triton.jit(do_not_specialize=SIZES)
def forward_whole(
    t, padding, bias, scale, out, lse, total, CHUNK: tl.constexpr,
    G0, G1, G2, P0, P1, P2,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, S0: tl.constexpr, S1: tl.constexpr, S2: tl.constexpr,
    PADS: tl.constexpr, MASK_PADDING: tl.constexpr,
    COSINE: tl.constexpr, H: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """CHUNK windows of one head, each of which fits one block: the bias is read once for all of them."""
    N: tl.constexpr = W0 * W1 * W2
    L = G0 * G1 * G2
    NW = (P0 // W0) * (P1 // W1) * (P2 // W2)
    i = tl.arange(0, BLOCK)
    head = tl.program_id(1)
    factor = tl.load(scale + head)
    b = _load_bias(bias + head * (N * ((N + 15) // 16 * 16)), i, i, N)
    first = tl.program_id(0) * CHUNK
    for c in range(tl.minimum(CHUNK, total - first)):
        number = first + c
        image, window = (number // NW).to(tl.int64), number % NW
        row, pad, region = _tokens(window, i, G0, G1, G2, P0, P1, P2, W0, W1, W2, S0, S1, S2, PADS, MASK_PADDING)
        x = t + image * (L * 3 * H * D)
        q = _load(x, padding, row, pad, i < N, head * D, PADS, H, D, BLOCK_D)
        k = _load(x, padding, row, pad, i < N, (H + head) * D, PADS, H, D, BLOCK_D)
        v = _load(x, padding, row, pad, i < N, (2 * H + head) * D, PADS, H, D, BLOCK_D)
        if COSINE:
            q = (q.to(tl.float32) * _shrink(q)).to(t.dtype.element_ty)
            k = (k.to(tl.float32) * _shrink(k)).to(t.dtype.element_ty)
        together = (region[:, None] == region[None, :]) | (i >= N)[:, None]
        s = tl.where((i < N)[None, :] & together, _dot(q, tl.trans(k)) * factor + b, float("-inf"))
        top = tl.max(s, 1)
        p = tl.exp(s - top[:, None])
        added = tl.sum(p, 1)
        o = _dot(p.to(v.dtype), v) / added[:, None]
        _store(out + image * (L * H * D), row, (i < N) & ~pad, head * D, o, H * D, D, BLOCK_D)
        tl.store(lse + (number.to(tl.int64) * H + head) * N + i, top + tl.log(added), mask=i < N)


@triton.jit(do_not_specialize=SIZES)
def backward_whole(
    t, padding, bias, scale, out, lse, d_out, d_t, d_padding, d_bias, d_scale, total, CHUNK: tl.constexpr,
    G0, G1, G2, P0, P1, P2,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, S0: tl.constexpr, S1: tl.constexpr, S2: tl.constexpr,
    PADS: tl.constexpr, MASK_PADDING: tl.constexpr,
    COSINE: tl.constexpr, H: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """All gradients of CHUNK windows of one head, each of which fits one block: everything is read once."""
    N: tl.constexpr = W0 * W1 * W2
    L = G0 * G1 * G2
    NW = (P0 // W0) * (P1 // W1) * (P2 // W2)
    i = tl.arange(0, BLOCK)
    head = tl.program_id(1)
    factor = tl.load(scale + head)
    added = tl.zeros((BLOCK, BLOCK), tl.float32)
    d_factor = tl.zeros((BLOCK,), tl.float32)
    first = tl.program_id(0) * CHUNK
    for c in range(tl.minimum(CHUNK, total - first)):
        number = first + c
        image, window = (number // NW).to(tl.int64), number % NW
        x, d_x = t + image * (L * 3 * H * D), d_t + image * (L * 3 * H * D)
        p, d_s, q, k, d_o, part = _d_logits(
            x, padding, bias, factor, out + image * (L * H * D), lse + image * (NW * H * N),
            d_out + image * (L * H * D), window, head, i, i,
            G0, G1, G2, P0, P1, P2, W0, W1, W2, S0, S1, S2, PADS, MASK_PADDING, COSINE, H, D, BLOCK, BLOCK_D
        )  # fmt: skip
        added += d_s
        row, pad, _ = _tokens(window, i, G0, G1, G2, P0, P1, P2, W0, W1, W2, S0, S1, S2, PADS, MASK_PADDING)
        d_q = _dot(d_s.to(k.dtype), k)
        _end_queries(x, padding, d_x, d_q, factor, row, pad, i < N, head, PADS, COSINE, H, D, BLOCK_D)
        d_factor += part
        d_k = _dot(tl.trans(d_s).to(q.dtype), q)
        d_v = _dot(tl.trans(p).to(d_o.dtype), d_o)
        _end_keys(
            x, padding, d_x, d_padding, d_k, d_v, factor, row, pad, i < N, head,
            PADS, MASK_PADDING, COSINE, H, D, BLOCK_D
        )  # fmt: skip
    _add_bias(d_bias + head * (N * ((N + 15) // 16 * 16)), i, i, added, N)
    if COSINE:
        tl.atomic_add(d_scale + head, tl.sum(d_factor, 0))
