# SPDX-License-Identifier: GPL-2.0-only
# Cost against the number of flows: from results/packets.dat, which has a block of lines for each row of the table, to
# results/packets.svg and .png.
stats "results/packets.dat" using 1 nooutput
set logscale x 2
set xlabel "flows"
set ylabel "ns a packet, above an empty program"
set yrange [0:*]
set key outside right top
set grid

set terminal svg size 1000,560 background "white"
set output "results/packets.svg"
plot for [i = 0:STATS_blocks - 1] "results/packets.dat" index i using 1:2 with linespoints title columnheader(1)
set terminal pngcairo size 1000,560
set output "results/packets.png"
replot
