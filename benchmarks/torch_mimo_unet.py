"""MIMO-UNet in PyTorch, written from its published description: the baseline of the benchmarks.

The state dict carries the official names, so that official weight files load into it.
PyTorch is needed here and nowhere else in the project.
"""

import torch
from torch import nn
from torch.nn import functional as F


class BasicConv(nn.Module):
    def __init__(self, i, o, kernel, stride=1, relu=True, transpose=False):
        super().__init__()
        padding = kernel // 2 - 1 if transpose else kernel // 2
        conv = nn.ConvTranspose2d if transpose else nn.Conv2d
        layers = [conv(i, o, kernel, stride=stride, padding=padding)]
        if relu:
            layers.append(nn.ReLU(inplace=True))
        self.main = nn.Sequential(*layers)

    def forward(self, x):
        return self.main(x)


class ResBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.main = nn.Sequential(BasicConv(c, c, 3), BasicConv(c, c, 3, relu=False))

    def forward(self, x):
        return self.main(x) + x


class Blocks(nn.Module):
    def __init__(self, c, n):
        super().__init__()
        self.layers = nn.Sequential(*[ResBlock(c) for _ in range(n)])

    def forward(self, x):
        return self.layers(x)


class AFF(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.conv = nn.Sequential(BasicConv(i, o, 1), BasicConv(o, o, 3, relu=False))

    def forward(self, *maps):
        return self.conv(torch.cat(maps, 1))


class SCM(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.main = nn.Sequential(
            BasicConv(3, o // 4, 3),
            BasicConv(o // 4, o // 2, 1),
            BasicConv(o // 2, o // 2, 3),
            BasicConv(o // 2, o - 3, 1),
        )
        self.conv = BasicConv(o, o, 1, relu=False)

    def forward(self, x):
        return self.conv(torch.cat([x, self.main(x)], 1))


class FAM(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.merge = BasicConv(c, c, 3, relu=False)

    def forward(self, a, b):
        return a + self.merge(a * b)


class MIMOUNet(nn.Module):
    def __init__(self, n=8, c=32, dropout=0.0):
        super().__init__()
        self.Encoder = nn.ModuleList([Blocks(c, n), Blocks(2 * c, n), Blocks(4 * c, n)])
        self.feat_extract = nn.ModuleList(
            [
                BasicConv(3, c, 3),
                BasicConv(c, 2 * c, 3, stride=2),
                BasicConv(2 * c, 4 * c, 3, stride=2),
                BasicConv(4 * c, 2 * c, 4, stride=2, transpose=True),
                BasicConv(2 * c, c, 4, stride=2, transpose=True),
                BasicConv(c, 3, 3, relu=False),
            ]
        )
        self.Decoder = nn.ModuleList([Blocks(4 * c, n), Blocks(2 * c, n), Blocks(c, n)])
        self.Convs = nn.ModuleList([BasicConv(4 * c, 2 * c, 1), BasicConv(2 * c, c, 1)])
        self.ConvsOut = nn.ModuleList(
            [BasicConv(4 * c, 3, 3, relu=False), BasicConv(2 * c, 3, 3, relu=False)]
        )
        self.AFFs = nn.ModuleList([AFF(7 * c, c), AFF(7 * c, 2 * c)])
        self.FAM1 = FAM(4 * c)
        self.SCM1 = SCM(4 * c)
        self.FAM2 = FAM(2 * c)
        self.SCM2 = SCM(2 * c)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x):
        def resize(z, scale):
            return F.interpolate(z, scale_factor=scale)

        x2 = resize(x, 0.5)
        x4 = resize(x2, 0.5)
        z2, z4 = self.SCM2(x2), self.SCM1(x4)
        res1 = self.Encoder[0](self.feat_extract[0](x))
        res2 = self.Encoder[1](self.FAM2(self.feat_extract[1](res1), z2))
        z = self.Encoder[2](self.FAM1(self.feat_extract[2](res2), z4))

        aff2 = self.dropout(self.AFFs[1](resize(res1, 0.5), res2, resize(z, 2)))
        aff1 = self.dropout(self.AFFs[0](res1, resize(res2, 2), resize(z, 4)))

        z = self.Decoder[0](z)
        quarter = self.ConvsOut[0](z) + x4
        z = self.Decoder[1](self.Convs[0](torch.cat([self.feat_extract[3](z), aff2], 1)))
        half = self.ConvsOut[1](z) + x2
        z = self.Decoder[2](self.Convs[1](torch.cat([self.feat_extract[4](z), aff1], 1)))
        return self.feat_extract[5](z) + x, half, quarter
