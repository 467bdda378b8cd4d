# ImageMagick: a picture is drawn, converted and looked at.
set -eu
cd /workspace
convert -size 800x600 gradient:red-blue -swirl 90 a.png
convert a.png -resize 50% -blur 0x2 -quality 80 a.jpg
convert a.png a.jpg -append -rotate 30 all.gif
identify a.png a.jpg all.gif
compare -metric rmse a.png a.png null: 2>/dev/null
echo end
