# shellcheck shell=sh
# Holds FITS bytes, which must work, then wants MORE, which must be its end.
grow='BEGIN { text = "................"; while (length(text) < most) text = text text; print word, length(text) }'
awk -v most="$FITS" -v word=fits "$grow"
exec awk -v most="$MORE" -v word=survived "$grow"
