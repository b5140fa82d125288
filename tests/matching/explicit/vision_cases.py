"""Vision transformers in the forms in which people have them, and other modules with bare parameters."""

from __future__ import annotations

import torch
from explicit_cases import CLASSES
from torch import nn
from torch.nn import functional as F

IMAGE, SIGNAL, ROW, TOKENS, VOLUME = (2, 6, 6), (3, 10), (8,), (5, 6), (2, 4, 3, 4)


class TorchvisionBlock(nn.Module):
    """As of ``torchvision.models.vision_transformer.EncoderBlock``."""

    def __init__(self, width, heads, hidden):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=1e-6)
        self.self_attention = nn.MultiheadAttention(width, heads, dropout=0.0, batch_first=True)
        self.dropout = nn.Dropout(0.0)
        self.ln_2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x):
        torch._assert(x.dim() == 3, "expected [batch, tokens, width]")
        y = self.ln_1(x)
        y, _ = self.self_attention(y, y, y, need_weights=False)
        x = x + self.dropout(y)
        return x + self.mlp(self.ln_2(x))


class TorchvisionViT(nn.Module):
    """As of ``torchvision.models.VisionTransformer``."""

    def __init__(self, width=6, heads=2, depth=2, patch=2, side=6, channels=2):
        super().__init__()
        self.patch, self.width = patch, width
        self.conv_proj = nn.Conv2d(channels, width, patch, patch)
        self.class_token = nn.Parameter(torch.randn(1, 1, width) * 0.2)
        self.encoder = nn.Module()
        self.encoder.pos_embedding = nn.Parameter(torch.randn(1, (side // patch) ** 2 + 1, width) * 0.2)
        self.encoder.layers = nn.Sequential(*(TorchvisionBlock(width, heads, 10) for _ in range(depth)))
        self.encoder.ln = nn.LayerNorm(width)
        self.heads = nn.Sequential(nn.Linear(width, CLASSES))

    def _tokens(self, x):
        n, _, h, w = x.shape
        x = self.conv_proj(x).reshape(n, self.width, (h // self.patch) * (w // self.patch))
        return x.permute(0, 2, 1)

    def forward(self, x):
        x = self._tokens(x)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.encoder.ln(self.encoder.layers(x + self.encoder.pos_embedding))
        return self.heads(x[:, 0])


class HuggingFaceViT(nn.Module):
    """As of ``transformers.ViTForImageClassification``: layers of its own, fused attention."""

    def __init__(self, width=6, heads=2, depth=2):
        super().__init__()
        self.heads, self.depth = heads, depth
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.2)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embeddings = nn.Parameter(torch.randn(1, 10, width) * 0.2)
        self.projection = nn.Conv2d(2, width, 2, 2)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "before": nn.LayerNorm(width),
                    "query": nn.Linear(width, width),
                    "key": nn.Linear(width, width),
                    "value": nn.Linear(width, width),
                    "output": nn.Linear(width, width),
                    "after": nn.LayerNorm(width),
                    "up": nn.Linear(width, 8),
                    "down": nn.Linear(8, width),
                }
            )
            for _ in range(depth)
        )
        self.layernorm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, CLASSES)

    def forward(self, pixel_values, bool_masked_pos=None):
        batch = pixel_values.shape[0]
        x = self.projection(pixel_values).flatten(2).transpose(1, 2)
        if bool_masked_pos is not None:
            tokens = self.mask_token.expand(batch, x.shape[1], -1)
            mask = bool_masked_pos.unsqueeze(-1).type_as(tokens)
            x = x * (1.0 - mask) + tokens * mask
        x = torch.cat((self.cls_token.expand(batch, -1, -1), x), dim=1) + self.position_embeddings
        for block in self.blocks:
            y = block["before"](x)
            shape = (batch, -1, self.heads, y.shape[-1] // self.heads)
            q, k, v = (block[part](y).view(shape).transpose(1, 2) for part in ("query", "key", "value"))
            y = F.scaled_dot_product_attention(q, k, v, None, 0.0, False)
            x = block["output"](y.transpose(1, 2).reshape(x.shape)) + x
            x = block["down"](F.gelu(block["up"](block["after"](x)))) + x
        return self.classifier(self.layernorm(x)[:, 0, :])


class MaskedViT(HuggingFaceViT):
    """The same patches of every image are masked."""

    def forward(self, x):
        mask = torch.zeros(x.shape[0], 9, dtype=torch.bool)
        mask[:, ::3] = True
        return super().forward(x, mask)


class Scale(nn.Module):
    """Layer scale."""

    def __init__(self, width, inplace):
        super().__init__()
        self.inplace, self.gamma = inplace, nn.Parameter(torch.rand(width))

    def forward(self, x):
        return x.mul_(self.gamma) if self.inplace else x * self.gamma


class TimmViT(nn.Module):
    """As of ``timm``: q, k, v by one layer, layer scale, register tokens, positions of patches alone."""

    def __init__(self, width=6, inplace=False):
        super().__init__()
        self.proj = nn.Conv2d(2, width, 3, 3)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.reg_token = nn.Parameter(torch.randn(1, 2, width))
        self.pos_embed = nn.Parameter(torch.randn(1, 4, width) * 0.2)
        self.norm, self.qkv, self.out = (
            nn.LayerNorm(width),
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )
        self.ls1, self.fc_norm, self.head = (
            Scale(width, inplace),
            nn.LayerNorm(width),
            nn.Linear(width, CLASSES),
        )

    def forward(self, x):
        x = self.proj(x).flatten(2).transpose(1, 2) + self.pos_embed
        to_cat = [token.expand(x.shape[0], -1, -1) for token in (self.cls_token, self.reg_token)]
        x = torch.cat([*to_cat, x], dim=1)
        batch, tokens, width = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(batch, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
        x = x + self.ls1(self.out(y))
        return self.head(self.fc_norm(x[:, 3:].mean(1)))


class SwinWindow(nn.Module):
    """Windows beside one another in the batch, with a table of relative positions, as of Swin."""

    def __init__(self, width=4, heads=2):
        super().__init__()
        self.heads, self.embed = heads, nn.Conv2d(2, width, 1)
        self.relative_position_bias_table = nn.Parameter(torch.randn(25, heads))
        grid = torch.stack(torch.meshgrid(torch.arange(3), torch.arange(3), indexing="ij")).flatten(1)
        offsets = grid[:, :, None] - grid[:, None, :] + 2
        self.register_buffer("relative_position_index", offsets[0] * 5 + offsets[1])
        self.qkv, self.last = nn.Linear(width, 3 * width), nn.Linear(width, CLASSES)
        self.logit_scale = nn.Parameter(torch.zeros(heads, 1, 1))

    def forward(self, x):
        x = self.embed(x).permute(0, 2, 3, 1)
        batch, _, _, width = x.shape
        x = x.view(batch, 2, 3, 2, 3, width).permute(0, 1, 3, 2, 4, 5).reshape(-1, 9, width)
        q, k, v = self.qkv(x).reshape(-1, 9, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        index = self.relative_position_index.view(-1)
        bias = self.relative_position_bias_table[index].view(9, 9, -1).permute(2, 0, 1).contiguous()
        scores = q @ k.transpose(-2, -1) * self.logit_scale.clamp(max=4.6).exp() + bias.unsqueeze(0)
        x = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, 4, 9, width)
        return self.last(x.mean((1, 2)))


class Conv1D(nn.Module):
    """As of ``transformers.pytorch_utils.Conv1D``."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.weight, self.bias = (
            nf,
            nn.Parameter(torch.randn(nx, nf) / 3),
            nn.Parameter(torch.rand(nf)),
        )

    def forward(self, x):
        size_out = (*x.size()[:-1], self.nf)
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(size_out)


class Gpt2Block(nn.Module):
    """Attention and a network of `Conv1D`, and a head without bias."""

    def __init__(self, width=6):
        super().__init__()
        self.c_attn, self.c_proj = Conv1D(3 * width, width), Conv1D(width, width)
        self.ln, self.score = nn.LayerNorm(width), nn.Linear(width, CLASSES, bias=False)

    def forward(self, x):
        q, k, v = self.c_attn(self.ln(x)).split(x.shape[-1], dim=2)
        x = x + self.c_proj(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        return self.score(x)[:, -1]


class Attending(nn.Module):
    """`nn.MultiheadAttention` called in one way or another."""

    def __init__(self, call, heads=2, **options):
        super().__init__()
        self.call, self.attention = call, nn.MultiheadAttention(6, heads, **options)
        self.last = nn.Linear(30, CLASSES)

    def forward(self, x):
        return self.last(self.call(self.attention, x).flatten(1))


class AttentionPool(nn.Module):
    """As of ``timm``: a layer is called with a parameter, and its outcome asks the tokens."""

    def __init__(self, width=6):
        super().__init__()
        self.latent = nn.Parameter(torch.randn(1, 2, width))
        self.q, self.kv, self.norm = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.LayerNorm(width)
        self.last = nn.Linear(width, CLASSES)

    def forward(self, x):
        q = self.q(self.latent.expand(x.shape[0], -1, -1))
        k, v = self.kv(x).chunk(2, -1)
        return self.last(self.norm(F.scaled_dot_product_attention(q, k, v)).mean(1))


def _itself(attention, x, **options):
    return attention(x, x, x, **options)[0]


def _sequence_first(attention, x):
    x = x.transpose(0, 1)
    return attention(x, x, x)[0].transpose(0, 1)


def _weights_too(attention, x):
    y, weights = attention(x, x, x, need_weights=True, average_attn_weights=False)
    return y + weights.sum(1) @ y


def _two(attention, x):
    return attention(x.cos(), x, x)[0]


def _three(attention, x):
    return attention(x.cos(), x.sin()[:, :3], x[:, 1:4])[0]


def _masked(attention, x):
    mask = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
    return _itself(attention, x, attn_mask=mask, is_causal=True, need_weights=False)


def _other_sizes(attention, x):
    return attention(x.cos(), x[..., :3], x[..., :4].sin())[0]


FIRST = {"batch_first": True}
ATTENTION = {
    "fused": lambda: Attending(lambda m, x: _itself(m, x, need_weights=False), **FIRST),
    "averaged-weights": lambda: Attending(_itself, **FIRST),
    "all-weights": lambda: Attending(_weights_too, **FIRST),
    "sequence-first": lambda: Attending(_sequence_first),
    "one-head": lambda: Attending(_itself, 1, **FIRST),
    "as-many-heads": lambda: Attending(_itself, 6, **FIRST),
    "no-bias": lambda: Attending(_itself, bias=False, **FIRST),
    "keys-are-values": lambda: Attending(_two, **FIRST),
    "all-three": lambda: Attending(_three, **FIRST),
    "masked": lambda: Attending(_masked, **FIRST),
    "kdim-vdim": lambda: Attending(_other_sizes, kdim=3, vdim=4, **FIRST),
    "bias-kv": lambda: Attending(_itself, add_bias_kv=True, add_zero_attn=True, **FIRST),
}


def _encoder(norm_first):
    layer = nn.TransformerEncoderLayer(6, 2, 9, 0.0, "gelu", batch_first=True, norm_first=norm_first)
    return nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Flatten(), nn.Linear(30, CLASSES))


TRANSFORMERS = {
    "torchvision": (IMAGE, TorchvisionViT),
    "torchvision-one-patch": (IMAGE, lambda: TorchvisionViT(patch=6)),
    "torchvision-one-head": (IMAGE, lambda: TorchvisionViT(heads=1, depth=1)),
    # As many tokens as rows of the batch, 2 victims x 3 restarts x 1 image.
    "tokens-like-rows": (IMAGE, lambda: TimmViT(6)),
    "hugging-face": (IMAGE, HuggingFaceViT),
    "hugging-face-masked": (IMAGE, MaskedViT),
    "timm": (IMAGE, TimmViT),
    "timm-in-place": (IMAGE, lambda: TimmViT(inplace=True)),
    "swin": (IMAGE, SwinWindow),
    "attention-pool": (TOKENS, AttentionPool),
    "gpt2": (TOKENS, Gpt2Block),
    "encoder": (TOKENS, lambda: _encoder(False)),
    "encoder-norm-first": (TOKENS, lambda: _encoder(True)),
    **{f"attention-{name}": (TOKENS, make) for name, make in ATTENTION.items()},
}


class Bare(nn.Module):
    """Bare parameters before a linear layer."""

    def __init__(self, use, *shapes, features=8):
        super().__init__()
        self.use = use
        self.given = nn.ParameterList(torch.randn(shape) * 0.5 for shape in shapes)
        self.last = nn.Linear(features, CLASSES)

    def forward(self, x):
        return self.last(torch.tanh(self.use(x, *self.given)).flatten(1))


def _in_place(x, p):
    y = x * 1
    y += p
    y.sub_(2 * p)
    return y * x


def _not_followed(x, p):
    with torch.no_grad():
        q = p * 2
    return x * (p.detach() + q) * p


def _resized(x, p):
    return x * F.interpolate(p, size=(6, 6), mode="bilinear")


BARE = {
    "added": (ROW, lambda: Bare(lambda x, p: (x + p).sin(), (8,))),
    "added-to-each": (ROW, lambda: Bare(lambda x, p: (x + p.unsqueeze(0)).sin(), (8,))),
    "scalar": (ROW, lambda: Bare(lambda x, p: x.sin() * p.exp(), ())),
    "concatenated": (
        ROW,
        lambda: Bare(lambda x, p: torch.cat([p.expand(len(x), 4), x.sin()], 1), (4,), features=12),
    ),
    "repeated": (
        ROW,
        lambda: Bare(lambda x, p: torch.cat([p.repeat(len(x), 1), x.sin()], 1), (1, 4), features=12),
    ),
    "stacked": (
        ROW,
        lambda: Bare(lambda x, p: torch.stack([x.sin(), p.expand_as(x)], 1).cumprod(1), (8,), features=16),
    ),
    "square": ((8, 8), lambda: Bare(lambda x, p: (x + p).sin(), (8, 8), features=64)),
    "two-together": (ROW, lambda: Bare(lambda x, p, q: torch.lerp(p, q, x.sin()), (8,), (8,))),
    "of-two": (ROW, lambda: Bare(lambda x, p, q: x.sin() * (p * q).sigmoid() + p, (8,), (8,))),
    "twice": (ROW, lambda: Bare(lambda x, p: (x * p).sin() + p, (8,))),
    "matmul": (ROW, lambda: Bare(lambda x, p: (x @ p).sin(), (8, 8))),
    "transposed": (ROW, lambda: Bare(lambda x, p: (x @ p.t()).sin() @ p, (8, 8))),
    "linear": (ROW, lambda: Bare(lambda x, p, q: F.linear(x, p, q[:5]).sin(), (5, 8), (8,), features=5)),
    "einsum": (
        TOKENS,
        lambda: Bare(lambda x, p: torch.einsum("bti,io->bto", x, p).sin(), (6, 4), features=20),
    ),
    "tokens-last": (TOKENS, lambda: Bare(lambda x, p: (p @ x).sin(), (4, 5), features=24)),
    "convolution": (
        IMAGE,
        lambda: Bare(lambda x, p: F.conv2d(x.sin(), p, stride=2), (3, 2, 2, 2), features=27),
    ),
    "same-padding": (
        IMAGE,
        lambda: Bare(lambda x, p: F.conv2d(x.sin(), p, padding="same"), (3, 2, 3, 3), features=108),
    ),
    "grouped": (
        SIGNAL,
        lambda: Bare(
            lambda x, p, q: F.conv1d(x, p, q, padding=1, groups=3).sin(), (6, 1, 3), (6,), features=60
        ),
    ),
    "by-channel": (IMAGE, lambda: Bare(lambda x, p: x * p[:, None, None], (2,), features=72)),
    "in-place": (ROW, lambda: Bare(_in_place, (8,))),
    "resized": (IMAGE, lambda: Bare(_resized, (1, 2, 3, 3), features=72)),
    "not-followed": (ROW, lambda: Bare(_not_followed, (8,))),
    "not-used": (ROW, lambda: Bare(lambda x, p: x.sin(), (8,))),
    "where": (ROW, lambda: Bare(lambda x, p: torch.where(x > 0.5, p, x.sin()), (8,))),
    "as-large": (ROW, lambda: Bare(lambda x, p: (x + (p + torch.zeros(len(x), 1))).sin(), (8,))),
    "twice-as-large": (
        ROW,
        lambda: Bare(
            lambda x, p: (x * (p + torch.ones(len(x), 1)) * (torch.ones(len(x), 1) * p)).sin(), (8,)
        ),
    ),
    "layer-norm": (ROW, lambda: Bare(lambda x, p, q: F.layer_norm(x.sin(), (8,), p, q), (8,), (8,))),
    "lookup": (
        TOKENS,
        lambda: Bare(lambda x, p: x.sin() + F.embedding(torch.arange(5), p), (7, 6), features=30),
    ),
}


class Tied(nn.Module):
    """Parameters with two uses."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.table, self.last = nn.Embedding(8, 8), nn.Linear(8, CLASSES)
        self.norm = nn.LayerNorm(8)
        if kind == "linear":
            self.second.weight = self.first.weight
        elif kind == "embedding":
            self.second.weight = self.table.weight
        elif kind == "norm":
            self.first.bias = self.norm.weight
        self.scale = self.norm.weight if kind == "bare" else 1.0

    def forward(self, x):
        x = self.norm(torch.tanh(self.first(x)) + self.table(torch.tensor(3))) * self.scale
        if self.kind == "function":
            x = x + F.linear(x.sin(), self.first.weight, self.second.bias) + x @ self.table.weight.t()
        return self.last(torch.tanh(self.second(x)))


TIED = {
    kind: (ROW, lambda kind=kind: Tied(kind)) for kind in ("linear", "embedding", "norm", "bare", "function")
}


class Own(nn.Linear):
    """A forward of its own."""

    def forward(self, x):
        return super().forward(x).tanh()


def _parametrized():
    first = nn.Linear(8, 8)
    nn.utils.parametrize.register_parametrization(first, "weight", nn.Tanh())
    return nn.Sequential(first, nn.Tanh(), nn.Linear(8, CLASSES))


def _settled(norm):
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return norm


def _instance(norm, convolution, features, *, evaluated=False):
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.normal_(1, 0.3)
    model = nn.Sequential(convolution, norm, nn.Tanh(), nn.Flatten(), nn.Linear(features, CLASSES))
    return model.eval() if evaluated else model


def _volume(*given, features, **options):
    return nn.Sequential(
        nn.Conv3d(2, *given, **options), nn.Tanh(), nn.Flatten(), nn.Linear(features, CLASSES)
    )


def _normed(layer, features, norm, **options):
    return nn.Sequential(norm(layer, **options), nn.Tanh(), nn.Flatten(), nn.Linear(features, CLASSES))


OLD, NEW = nn.utils.weight_norm, nn.utils.parametrizations.weight_norm
TRACKED = {"affine": True, "track_running_stats": True}
LAYERS = {
    "instance-1d": (
        SIGNAL,
        lambda: _instance(nn.InstanceNorm1d(4, affine=True), nn.Conv1d(3, 4, 3), 32),
    ),
    "instance-2d": (
        IMAGE,
        lambda: _instance(nn.InstanceNorm2d(4, affine=True, eps=1e-2), nn.Conv2d(2, 4, 3), 64),
    ),
    "instance-3d": (
        VOLUME,
        lambda: _instance(nn.InstanceNorm3d(3, affine=True), nn.Conv3d(2, 3, 2), 54),
    ),
    "instance-tracked": (IMAGE, lambda: _instance(nn.InstanceNorm2d(4, **TRACKED), nn.Conv2d(2, 4, 3), 64)),
    "instance-plain": (
        IMAGE,
        lambda: _instance(nn.InstanceNorm2d(4, track_running_stats=True), nn.Conv2d(2, 4, 3), 64),
    ),
    "instance-evaluated": (
        IMAGE,
        lambda: _instance(_settled(nn.InstanceNorm2d(4, **TRACKED)), nn.Conv2d(2, 4, 3), 64, evaluated=True),
    ),
    "conv3d": (VOLUME, lambda: _volume(3, 3, 2, 1, features=24)),
    "conv3d-dilated": (VOLUME, lambda: _volume(4, (2, 1, 2), dilation=(2, 1, 1), groups=2, features=72)),
    "conv3d-circular": (VOLUME, lambda: _volume(2, 3, padding=1, padding_mode="circular", features=96)),
    "conv3d-point": (VOLUME, lambda: _volume(2, 1, bias=False, features=96)),
    "conv-transposed": (
        IMAGE,
        lambda: nn.Sequential(
            nn.ConvTranspose2d(2, 3, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(432, CLASSES)
        ),
    ),
    "prelu": (ROW, lambda: nn.Sequential(nn.Linear(8, 8), nn.PReLU(8), nn.Tanh(), nn.Linear(8, CLASSES))),
    "rms-norm": (
        ROW,
        lambda: nn.Sequential(nn.Linear(8, 8), nn.RMSNorm(8), nn.Tanh(), nn.Linear(8, CLASSES)),
    ),
    **{
        f"weight-norm-{which}-{name}": (
            shape,
            lambda make=make, norm=norm, n=n, o=o: _normed(make(), n, norm, **o),
        )
        for which, norm in (("hook", OLD), ("parametrization", NEW))
        for name, shape, make, n, o in (
            ("linear", ROW, lambda: nn.Linear(8, 7), 7, {}),
            ("whole", ROW, lambda: nn.Linear(8, 7), 7, {"dim": None}),
            ("columns", ROW, lambda: nn.Linear(8, 7), 7, {"dim": 1}),
            ("bias", ROW, lambda: nn.Linear(8, 7), 7, {"name": "bias"}),
            ("conv1d", SIGNAL, lambda: nn.Conv1d(3, 4, 3, 2, 1, bias=False), 20, {}),
            ("conv2d", IMAGE, lambda: nn.Conv2d(2, 4, 3, padding=1, groups=2), 144, {}),
            ("conv3d", VOLUME, lambda: nn.Conv3d(2, 2, 2), 36, {}),
        )
    },
    "own-forward": (ROW, lambda: nn.Sequential(Own(8, 8), nn.Linear(8, CLASSES))),
    "parametrized": (ROW, _parametrized),
    "spectral-norm": (
        ROW,
        lambda: _normed(nn.Linear(8, 7), 7, nn.utils.parametrizations.spectral_norm).eval(),
    ),
}

EVERYTHING = {**TRANSFORMERS, **BARE, **{f"tied-{k}": v for k, v in TIED.items()}, **LAYERS}
"""Input shape and constructor."""


def make_vision(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(0)
    shape, make = EVERYTHING[name]
    return make(), shape
